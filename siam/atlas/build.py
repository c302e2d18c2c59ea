"""`siam explore`: from images to map.parquet."""

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from siam.atlas.clusters import Clusters, cluster
from siam.atlas.duplicates import (
    AGREEMENT,
    COSINE,
    Groups,
    duplicate_of,
    duplicates_by_looks,
    duplicates_by_vectors,
)
from siam.atlas.embedded import Embedded
from siam.atlas.given import VECTORS, folder_of, looks_of, open_given
from siam.atlas.layout import NEIGHBORS, lay_out, require_layout
from siam.atlas.looks import Looks
from siam.atlas.neighbors import Neighbors, neighbors_of_all
from siam.atlas.table import SCHEMA, Map
from siam.errors import DataError
from siam.runs.bars import transient_progress
from siam.settings.checks import AtLeast, check
from siam.system.device import float32_by_default
from siam.system.names import stored

_REPRESENTATIVES = 9
_CHUNK = 50_000  # rows: a column of bytes may hold 2 GB at most


@dataclass(frozen=True)
class _Numbers:
    k: Annotated[int, AtLeast(1)]
    clusters: Annotated[int | None, AtLeast(1)]
    workers: Annotated[int, AtLeast(-1, "(automatic)")]

    def __post_init__(self) -> None:
        check(self)


@float32_by_default()
def explore(
    run: str | Path | None = None,
    data: str | Path | None = None,
    out: str | Path = "map",
    vectors: str | Path | None = None,
    k: int = 20,
    clusters: int | None = None,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> dict[str, Any]:
    """Lay out a set of images on a map, with neighbors, duplicates, outliers and clusters.

    Writes OUT/map.parquet (see siam.atlas.table) and, if it embeds the images, OUT/vectors.parquet.
    run, data: the encoder and the images. vectors: a file that `siam embed` wrote, or one with the columns
    `path` and `embedding`, in place of the run; `data` then adds pictures, without which duplicates are
    found by vectors alone. k: neighbors per image. clusters: their number; None: about sqrt(N / 2).
    Returns a summary. Raises SiamError.
    """
    _Numbers(k, clusters, workers)
    require_layout()
    started, out = time.monotonic(), Path(out).expanduser()
    console = console or Console(stderr=True)
    given = open_given(run, data, vectors, device, workers, console, out / VECTORS)
    embedded = given.embedded
    looks = None if given.images is None else looks_of(given.images, workers, console, thumbnails=True)
    unit = _normalize(embedded)
    with transient_progress(console) as bar:
        near = neighbors_of_all(unit, max(k, NEIGHBORS), bar("neighbors"))
        neighbors = near.first(k)
        if looks is None:
            groups = duplicates_by_vectors(neighbors, COSINE)
        else:
            groups = duplicates_by_looks(looks, neighbors, AGREEMENT, bar("duplicates"))
        found = cluster(unit, clusters, _REPRESENTATIVES)
        positions = lay_out(unit, near, bar("map"))
    facts = {
        "data": stored(folder_of(data) or "") or None,
        "run": None if run is None else stored(str(run)),
        "k": neighbors.rows.shape[1],
        "clusters": _facts_of(found),
        "duplicates": groups,
    }
    whole = Map(_table(embedded, looks, neighbors, groups, found, positions), facts)
    file = whole.write(out)
    page = _write_page(whole, out)
    return {
        "map": str(file), "page": page, "images": len(embedded), "clusters": len(found.representatives),
        "duplicates": sum(len(group) - 1 for group in groups), "duplicate_groups": len(groups),
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def _normalize(embedded: Embedded) -> NDArray[np.float32]:
    """Scale the vectors to length 1, in place. Raises DataError if they are all the same."""
    vectors = embedded.vectors
    for at in range(0, len(vectors), _CHUNK):
        lengths = np.linalg.norm(vectors[at : at + _CHUNK], axis=1, keepdims=True)
        vectors[at : at + _CHUNK] /= np.maximum(lengths, 1e-12)
    if np.ptp(vectors, axis=0).max() < 1e-6:
        raise DataError("all vectors are the same: the encoder has collapsed, so there is no map to draw")
    return vectors


def _facts_of(clusters: Clusters) -> list[dict[str, Any]]:
    sizes = np.bincount(clusters.labels, minlength=len(clusters.representatives))
    return [
        {"cluster": number, "size": int(sizes[number]), "representatives": rows}
        for number, rows in enumerate(clusters.representatives)
    ]


def _table(
    embedded: Embedded,
    looks: Looks | None,
    neighbors: Neighbors,
    groups: Groups,
    clusters: Clusters,
    positions: NDArray[np.float32],
) -> pa.Table:
    """Return the columns of map.parquet."""
    count = len(embedded)
    first = duplicate_of(groups, count)
    represents = np.zeros(count, bool)
    represents[[row for rows in clusters.representatives for row in rows]] = True
    thumbnails = [None] * count if looks is None else looks.thumbnails
    columns = {
        "path": pa.array(embedded.paths, pa.string()),
        "label": pa.array(embedded.labels, pa.string()),
        "x": pa.array(positions[:, 0]),
        "y": pa.array(positions[:, 1]),
        "cluster": pa.array(clusters.labels),
        "representative": pa.array(represents),
        "duplicate_of": pa.array([None if row < 0 else embedded.paths[row] for row in first], pa.string()),
        "outlier": pa.array(neighbors.distance()),
        "neighbors": _lists(neighbors.rows),
        "similarity": _lists(neighbors.similarity),
        "thumbnail": pa.chunked_array(
            [thumbnails[at : at + _CHUNK] for at in range(0, count, _CHUNK)], pa.binary()
        ),
    }
    return pa.table(columns, schema=SCHEMA)


def _lists(rows: NDArray[Any]) -> Any:
    """Return an array (N, k) as a column of lists."""
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))


def _write_page(whole: Map, folder: Path) -> str | None:
    """Write the page, if this installation has one, and return its path."""
    if find_spec("siam.atlas.page") is None:
        return None
    from importlib import import_module

    return str(import_module("siam.atlas.page").write_page(whole, folder))
