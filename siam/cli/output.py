"""Print results to stdout, as one JSON object or as a readable table."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from siam.report.formats import percent as percent_of
from siam.system.names import shown

_MAX_CLASSES = 20


def show(result: Any, as_json: bool = False, render: Callable[[Any], Iterable[Any]] | None = None) -> None:
    """Print a verb's result (a dict or dataclass) as JSON or in human-readable form.

    render: function that converts the result to strings and rich renderables; None:
    show a table of the fields.
    """
    facts = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    if as_json:
        print(json.dumps(facts))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for part in [facts_table(facts)] if render is None else render(result):
        if isinstance(part, str):
            console.print(shown(part), soft_wrap=True, markup=False, emoji=False)
        else:
            console.print(part)


def facts_table(facts: dict[str, Any], percent: Iterable[str] = ()) -> Any:
    """Return a rich table with one row per field.

    percent: names of fields to show as percentages.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # paths are shown in full
    in_percent = set(percent)
    for name, value in facts.items():
        words = _duration(value) if name == "seconds" else _in_words(value, name in in_percent)
        table.add_row(name.replace("_", " "), Text(shown(words)))
    return table


def _in_words(value: Any, percent: bool) -> str:
    match value:
        case None | () | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return "  ".join(f"{key} {_in_words(inner, percent)}" for key, inner in value.items())
        case tuple() | list():
            between = ", " if isinstance(value[0], str) else " to "
            return between.join(_in_words(inner, percent) for inner in value)
        case float():
            return percent_of(value) if percent else f"{value:.4g}"
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} ({seconds / 60:.1f} minutes)" if seconds >= 120 else f"{seconds:.4g}"


def classes_table(per_class: dict[str, float], confusion: list[list[int]]) -> Any:
    """Return a rich table of the least accurate classes and their main confusions.

    per_class: class name -> accuracy. confusion: confusion matrix of image counts, with
    true classes as rows. A class without validation images has a row of zeros and is
    absent from `per_class`; the columns then cannot be named, and confusions are
    omitted.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "accuracy", "most confused with", box=None, padding=(0, 2))
    rows = [counts for counts in confusion if sum(counts)]
    lowest = sorted(zip(per_class, rows, strict=True), key=lambda row: per_class[row[0]])[:_MAX_CLASSES]
    for name, counts in lowest:
        others = {other: n for other, n in zip(per_class, counts, strict=False) if other != name and n}
        confused = max(others, key=others.__getitem__) if others and len(rows) == len(counts) else "-"
        table.add_row(Text(shown(name)), percent_of(per_class[name]), Text(shown(confused)))
    if len(per_class) > _MAX_CLASSES:
        table.caption = (
            f"{_MAX_CLASSES} of {len(per_class)} classes, lowest accuracy first; --json prints all"
        )
    return table


def images_table(images: list[dict[str, Any]], measure: str) -> Any:
    """Return a rich table of images: rank, the field `measure`, label if any has one, and path."""
    from rich.table import Table
    from rich.text import Text

    labeled = any(one["label"] is not None for one in images)
    table = Table("", measure, *(["label"] if labeled else []), "image", box=None, padding=(0, 2))
    for rank, one in enumerate(images, start=1):
        label = [Text(shown(one["label"] or "-"))] if labeled else []
        table.add_row(str(rank), f"{one[measure]:.4f}", *label, Text(shown(one["path"]), overflow="fold"))
    return table


def markdown_file(path: str) -> Any:
    """Read a Markdown file as a rich renderable."""
    from rich.markdown import Markdown

    return Markdown(Path(path).read_text(encoding="utf-8"))
