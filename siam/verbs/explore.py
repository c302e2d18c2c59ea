"""look at images: a map with neighbors, duplicates, outliers and clusters"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from siam.cli.flags import OptionalData, OptionalRun, Switch, VectorsFile, given_set, require_extra


@dataclass(frozen=True)
class Explore:
    """Write a map of images to look at: map.html, and map.parquet, which other viewers open too.

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
    serve: Switch = False
    """Then serve the page, with full-size images, search by example and labels; opens a map that is there."""
    host: str = "127.0.0.1"
    """Address to serve at; by default, only this machine can connect."""
    port: int = 8750
    """Port to serve at; 0: any free one."""


def main(options: Explore) -> dict[str, Any]:
    from siam.atlas.build import explore
    from siam.atlas.serving import require_data, written
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    run, data = given_set(options.run, options.data, options.vectors)
    if options.serve:
        for module in ("starlette", "uvicorn"):
            require_extra(module, "explore")
        found = written(run, require_data(data), options.vectors, options.out)
        if found is not None:
            return found
    names = ("out", "vectors", "k", "clusters", "device", "workers")
    return explore(run, data, **{name: getattr(options, name) for name in names})


def render(result: dict[str, Any]) -> Iterator[Any]:
    from siam.cli.output import facts_table

    yield facts_table({name: value for name, value in result.items() if value is not None})


def after(options: Explore, result: dict[str, Any]) -> None:
    """Serve the page until the user stops it."""
    if not options.serve:
        return
    import sys

    from siam.atlas.server import Server
    from siam.atlas.serving import open_studio

    run, data = given_set(options.run, options.data, options.vectors)
    studio = open_studio(run, data, options.vectors, options.out, options.device, options.workers)
    server = Server(studio, options.host, options.port)
    print(f"the map is at {server.address} until you press Ctrl+C", file=sys.stderr, flush=True)
    server.run()
