"""reproduce one of the paper's tables, row by row, alongside the published figures"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg

from siam.cli.flags import CommandLine, TableOverrides
from siam.cli.output import markdown_file
from siam.paper.tables import TABLES

HINTS = {
    "--method": "each row of a table names its own method",
    "--seed": "a table runs seeds 0, 1, ...; set their number with --seeds",
}


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Reproduce one of the paper's tables, row by row; --scale demo takes minutes on a laptop."""

    table: Annotated[Positional[str], arg(metavar="TABLE")]
    """The table's name."""
    scale: Literal["demo", "cifar", "imagenette", "imagenet"] = "demo"
    """Scale of the experiments: selects the dataset and the recipe that all rows start from."""
    seeds: int = 1
    """Number of runs per row, with seeds 0, 1, ..."""
    out: str | None = None
    """Output folder; if left out, runs/reproduce/TABLE-SCALE. An unfinished table is resumed."""
    command: Suppress[CommandLine] = field(default=CommandLine(""))
    settings: TableOverrides


Reproduce.__doc__ = (
    f"{Reproduce.__doc__}\n\nTABLE is one of {', '.join(TABLES)}; `siam reproduce transfer` is a separate "
    "verb with its own settings. Rows start from the scale's recipe; the defaults below are for imagenet."
)


def main(options: Reproduce) -> dict[str, Any]:
    from siam.paper.cells import load_table
    from siam.paper.reproduce import reproduce

    folder = reproduce(
        options.table, options.settings, options.scale, options.seeds, options.out, options.command
    )
    return {"out": str(folder), **load_table(folder)}


def render(result: dict[str, Any]) -> list[Any]:
    return [markdown_file(f"{result['out']}/table.md")]


def after(options: Reproduce, result: dict[str, Any]) -> None:
    print(f"look at {result['out']}/table.md and figure.png", file=sys.stderr)
