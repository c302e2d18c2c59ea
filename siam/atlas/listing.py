"""`siam duplicates` and `siam outliers`: lists of images, for tables and scripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.console import Console

from siam.atlas.duplicates import AGREEMENT, COSINE, duplicates_by_looks, duplicates_by_vectors
from siam.atlas.given import looks_of, open_given
from siam.atlas.neighbors import neighbors_of_all
from siam.runs.bars import transient_progress
from siam.settings.checks import AtLeast, Within, check
from siam.system.device import float32_by_default
from siam.system.files import write_atomically, writing
from siam.system.names import shown

_COMPARED = 20  # neighbors per image whose vectors are compared


@dataclass(frozen=True)
class _DuplicateNumbers:
    agreement: Annotated[float, Within(0, 1)]
    cosine: Annotated[float, Within(-1, 1)]
    workers: Annotated[int, AtLeast(-1, "(automatic)")]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _OutlierNumbers:
    k: Annotated[int, AtLeast(1)]
    count: Annotated[int, AtLeast(1)]
    workers: Annotated[int, AtLeast(-1, "(automatic)")]

    def __post_init__(self) -> None:
        check(self)


@float32_by_default()
def duplicates(
    run: str | Path | None = None,
    data: str | Path | None = None,
    vectors: str | Path | None = None,
    agreement: float = AGREEMENT,
    cosine: float = COSINE,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Find groups of images that are the same picture: copies, resized, re-encoded or slightly cropped.

    run, data, vectors: as in `siam.explore`. agreement: least correlation of the details of two pictures,
    once aligned. cosine: least cosine of their vectors, used only if there are no pictures to compare.
    Returns a dict with `groups` of paths in the order of the set, the largest group first, and counts;
    `exact` counts copies of the very bytes. Raises SiamError.
    """
    _DuplicateNumbers(agreement, cosine, workers)
    console = console or Console(stderr=True)
    given = open_given(run, data, vectors, device, workers, console)
    paths = given.embedded.paths
    looks = None if given.images is None else looks_of(given.images, workers, console, thumbnails=False)
    with transient_progress(console) as bar:
        neighbors = neighbors_of_all(given.embedded.vectors, _COMPARED, bar("neighbors"))
        if looks is None:
            groups, exact = duplicates_by_vectors(neighbors, cosine), None
        else:
            groups = duplicates_by_looks(looks, neighbors, agreement, bar("duplicates"))
            digests = [digest for digest in looks.digests if digest]
            exact = len(digests) - len(set(digests))
    groups.sort(key=len, reverse=True)
    return {
        "images": len(paths), "duplicates": sum(len(group) - 1 for group in groups), "exact": exact,
        "groups": [[paths[row] for row in group] for group in groups],
    }  # fmt: skip


@float32_by_default()
def outliers(
    run: str | Path | None = None,
    data: str | Path | None = None,
    vectors: str | Path | None = None,
    k: int = 20,
    count: int = 100,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Find the images that are least like any other: those farthest from their k nearest neighbors.

    run, data, vectors: as in `siam.explore`; pictures are not needed. count: number of images to return.
    Returns a dict with `outliers`, oddest first: path, label and mean distance (1 - cosine). A group of more
    than k odd images that are alike is not found; a larger k finds it. Raises SiamError.
    """
    _OutlierNumbers(k, count, workers)
    console = console or Console(stderr=True)
    embedded = open_given(run, None if vectors else data, vectors, device, workers, console).embedded
    with transient_progress(console) as bar:
        distance = neighbors_of_all(embedded.vectors, k, bar("neighbors")).distance()
    rows = np.argsort(-distance, kind="stable")[:count].tolist()
    found = [
        {"path": embedded.paths[row], "label": embedded.labels[row], "distance": float(distance[row])}
        for row in rows
    ]
    return {"images": len(embedded), "k": k, "outliers": found}


def write_list(file: str | Path, paths: list[str]) -> None:
    """Write one path per line, on a single line each (see `shown`). Raises RunError."""
    text = "".join(f"{shown(path)}\n" for path in paths).encode()
    with writing(file):
        write_atomically(Path(file).expanduser(), lambda opened: opened.write(text))
