"""reproduce a table from the paper, alongside the published numbers"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg

from siam.cli.flags import CommandLine, TableOverrides
from siam.cli.output import markdown_file
from siam.paper.tables import TABLES
from siam.system.names import shown

HINTS = {
    "--method": "each table row sets its own method",
    "--seed": "seeds are 0, 1, ...; set the number of seeds with --seeds",
}


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Reproduce a table from the paper; --scale demo takes minutes on a laptop."""

    table: Annotated[Positional[str], arg(metavar="TABLE")]
    """Name of the table."""
    scale: Literal["demo", "cifar", "imagenette", "imagenet"] = "demo"
    """Scale of the experiments, which sets the dataset and the recipe for all rows."""
    seeds: int = 1
    """Number of runs per row, with seeds 0, 1, ..."""
    out: str | None = None
    """Output folder; if omitted, runs/reproduce/TABLE-SCALE. Resumes if unfinished."""
    command: Suppress[CommandLine] = field(default=CommandLine(""))
    settings: TableOverrides


Reproduce.__doc__ = (
    f"{Reproduce.__doc__}\n\nTABLE is one of {', '.join(TABLES)}; `siam reproduce transfer` is a separate "
    "verb with its own settings. The defaults below are for --scale imagenet."
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
    print(f"see {shown(result['out'])}/table.md and figure.png", file=sys.stderr)
