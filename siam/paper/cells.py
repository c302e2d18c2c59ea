"""Helpers for reproducing tables: statistics over seeds, run folders, output files."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from siam.errors import RunError
from siam.runs.folder import require_free
from siam.system.files import write_atomically, writing
from siam.system.names import LONGEST_NAME, shown

_FILES = ("table.json", "table.md", "figure.svg", "figure.png")

Mean = tuple[float, float | None]
"""Mean and standard deviation over seeds; the deviation is None for one seed."""


def mean_of(values: Iterable[float | None]) -> Mean | None:
    """Return the mean and standard deviation, ignoring None values.

    Returns None if all values are None.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def markdown_row(cells: Iterable[str]) -> str:
    """Format a Markdown table row."""
    return f"| {' | '.join(shown(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def run_folder(folder: Path, row: str, seed: int) -> Path:
    """Return the run folder for a table row and seed, such as no-predictor-seed0."""
    name = "".join(c if c.isalnum() else "-" for c in row.lower()).strip("-")
    return folder / f"{name[:LONGEST_NAME]}-seed{seed}"


def save_table(folder: Path, facts: dict[str, Any], page: str) -> None:
    """Write `facts` to table.json and `page`, the Markdown table, to table.md."""
    save(folder / "table.json", (json.dumps(facts, indent=1) + "\n").encode())
    save(folder / "table.md", page.encode())


def require_table(folder: Path, name: str) -> dict[str, Any]:
    """Return the folder's table.json, or {} if there is none. Raises RunError if it has another table.

    name: the table, as recorded in table.json.
    """
    try:
        facts = load_table(folder)
        found = facts["table"]
    except (OSError, ValueError, KeyError, TypeError):
        require_free(folder, _FILES)
        return {}
    if found != name:
        raise RunError(f"{folder} already contains the table '{found}': choose another --out")
    return facts


def load_table(folder: Path) -> dict[str, Any]:
    """Load table.json."""
    facts: dict[str, Any] = json.loads((folder / "table.json").read_text())
    return facts


def save(path: Path, contents: bytes) -> None:
    """Write a file atomically. Raises RunError if writing fails."""
    with writing(path, "; repeat the command to continue"):
        write_atomically(path, lambda file: file.write(contents))
