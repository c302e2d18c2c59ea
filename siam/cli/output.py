"""What a verb came to: one JSON object on stdout for programs, a small table for people."""

import json
import os
from pathlib import Path
from typing import Any

_WORST = 20  # classes that are shown
_SHARES = ("top1", "top5", "interval", "per_class", "labels")


def tells() -> bool:
    """Whether this process speaks for those that work together: the first one does."""
    return int(os.environ.get("RANK", "0")) == 0


def tell(outcome: dict[str, Any], as_json: bool) -> None:
    """The result: one JSON object on stdout, or a small table for people."""
    if as_json:
        print(json.dumps(outcome))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in outcome.items():
        table.add_row(name.replace("_", " "), _in_words(name, value))
    Console(highlight=False).print(table)


def tell_classes(per_class: dict[str, float], confusion: list[list[int]]) -> None:
    """How often each class was named rightly, the worst first, and what it was mostly taken for."""
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "named rightly", "else mostly", box=None, padding=(0, 2))
    rows = [counts for counts in confusion if sum(counts)]
    for name, counts in sorted(zip(per_class, rows, strict=True), key=lambda row: per_class[row[0]])[:_WORST]:
        others = {other: n for other, n in zip(per_class, counts, strict=False) if other != name and n}
        mostly = max(others, key=lambda other: others[other]) if len(rows) == len(counts) and others else "-"
        table.add_row(name, f"{100 * per_class[name]:.1f} %", mostly)
    if len(per_class) > _WORST:
        table.caption = f"the {_WORST} worst of {len(per_class)} classes; --json prints all"
    Console(highlight=False).print(table)


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_in_words(name, inner)}" for key, inner in value.items())
    if isinstance(value, (tuple, list)):
        return " to ".join(_in_words(name, inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if name.startswith("knn") or name in _SHARES:
        return f"{100 * value:.1f} %"
    if name == "seconds" and value >= 120:
        return f"{value:.0f} ({value / 60:.1f} minutes)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tell_study(folder: Path, as_json: bool) -> None:
    """The table that `siam reproduce` left in a folder."""
    if as_json:
        print(json.dumps(json.loads((folder / "table.json").read_text())))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown((folder / "table.md").read_text()))
