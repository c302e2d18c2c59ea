"""find the images most like a given one"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from siam.cli.flags import RunFolder


@dataclass(frozen=True)
class Search:
    """List the images most similar to QUERY, by the cosine of a run's embeddings.

    From a million vectors on, a file of vectors gets an index beside it (FAISS), built by the first search.
    """

    run: RunFolder
    query: Annotated[Positional[str], arg(metavar="QUERY")]
    """Image file to search for."""
    data: Annotated[Positional[str], arg(metavar="DATA|VECTORS")]
    """Images, a file that `siam embed` wrote with this run, or a folder that `siam explore` wrote."""
    k: int = 20
    """Number of images to list."""
    html: str | None = None
    """Also write a page with the pictures to this file."""
    exact_below: int = 1_000_000
    """Number of vectors from which an index is used; fewer are all compared."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Search) -> dict[str, Any]:
    from siam.atlas.search import search
    from siam.system.device import find_device, tune_process

    tune_process(find_device(options.device))
    return search(**{name: getattr(options, name) for name in Search.__dataclass_fields__})


def render(result: dict[str, Any]) -> Iterator[Any]:
    from siam.cli.output import images_table

    yield images_table(result["results"], "cosine")
