"""lay out images on a map, with neighbors, duplicates, outliers and clusters"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from siam.cli.flags import OptionalData, OptionalRun, VectorsFile, given_set


@dataclass(frozen=True)
class Explore:
    """Write a map of images: map.parquet in the folder --out, which other viewers open too.

    `siam explore RUN DATA` embeds the images; `siam explore DATA --vectors FILE` takes their vectors from a
    file. Without DATA, the map has no pictures.
    """

    run: OptionalRun = ""
    data: OptionalData = ""
    out: str = "map"
    """Output folder."""
    vectors: VectorsFile = None
    k: int = 20
    """Neighbors per image, which also tell how odd an image is."""
    clusters: int | None = None
    """Number of clusters; default: the square root of half the number of images, at most 100."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Explore) -> dict[str, Any]:
    from siam.explore.build import explore
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    run, data = given_set(options.run, options.data, options.vectors)
    names = ("out", "vectors", "k", "clusters", "device", "workers")
    return explore(run, data, **{name: getattr(options, name) for name in names})


def render(result: dict[str, Any]) -> Iterator[Any]:
    from siam.cli.output import facts_table

    yield facts_table({name: value for name, value in result.items() if value is not None})
