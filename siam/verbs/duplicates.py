"""find images that are the same picture: copies, resized, re-encoded, slightly cropped"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from siam.cli.flags import OptionalData, OptionalRun, VectorsFile, given_set

_SHOWN = 50  # groups


@dataclass(frozen=True)
class Duplicates:
    """Find groups of images that are the same picture.

    Exact copies are found by their bytes; others are proposed by their vectors and by how they look, and
    confirmed by comparing small pictures of them.
    """

    run: OptionalRun = ""
    data: OptionalData = ""
    vectors: VectorsFile = None
    agreement: float = 0.65
    """Least agreement of two pictures, from 0 to 1: the correlation of their details, once aligned."""
    cosine: float = 0.98
    """Least cosine of two vectors, used only where there are no pictures."""
    list_to: str | None = None
    """Also write the paths of all images but the first of each group to this file, one per line."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Duplicates) -> dict[str, Any]:
    from siam.atlas.listing import duplicates
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    run, data = given_set(options.run, options.data, options.vectors)
    names = ("vectors", "agreement", "cosine", "device", "workers")
    return duplicates(run, data, **{name: getattr(options, name) for name in names})


def keep(options: Duplicates, result: dict[str, Any]) -> None:
    from siam.atlas.listing import write_list

    if options.list_to is not None:
        write_list(options.list_to, [path for group in result["groups"] for path in group[1:]])


def render(result: dict[str, Any]) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    from siam.system.names import shown

    table = Table("picture", "and its duplicates", box=None, padding=(0, 2))
    for first, *others in result["groups"][:_SHOWN]:
        names = (Text(shown(name), overflow="fold") for name in (first, others[0]))
        table.add_row(*names)
        for other in others[1:]:
            table.add_row("", Text(shown(other), overflow="fold"))
    if result["groups"]:
        yield table
    more = len(result["groups"]) - _SHOWN
    if more > 0:
        yield f"and {more:,} more groups; --json prints all"
    exact = "" if result["exact"] is None else f" ({result['exact']:,} exact copies)"
    yield f"{result['duplicates']:,} duplicates{exact} among {result['images']:,} images"
