"""find the images that are least like the others"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from siam.cli.flags import OptionalData, OptionalRun, VectorsFile, given_set


@dataclass(frozen=True)
class Outliers:
    """List the images farthest from their k nearest neighbors, oddest first."""

    run: OptionalRun = ""
    data: OptionalData = ""
    vectors: VectorsFile = None
    k: int = 20
    """Neighbors per image. A group of more than k odd images that are alike needs a larger k."""
    count: int = 100
    """Number of images to list."""
    list_to: str | None = None
    """Also write the paths to this file, one per line."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Outliers) -> dict[str, Any]:
    from siam.atlas.listing import outliers
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    run, data = given_set(options.run, options.data, options.vectors)
    names = ("vectors", "k", "count", "device", "workers")
    return outliers(run, data, **{name: getattr(options, name) for name in names})


def keep(options: Outliers, result: dict[str, Any]) -> None:
    from siam.atlas.listing import write_list

    if options.list_to is not None:
        write_list(options.list_to, [one["path"] for one in result["outliers"]])


def render(result: dict[str, Any]) -> Iterator[Any]:
    from siam.cli.output import images_table

    yield images_table(result["outliers"], "distance")
