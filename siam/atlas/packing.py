"""Pack a map for the page: columns as typed arrays, thumbnails and neighbors in chunks of nearby images."""

import base64
import gzip
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from siam.atlas.table import SCHEMA, Map

CHUNK = 4096
"""Images per chunk."""
OUTLIERS = 200
"""Images in the panel of outliers."""

Thumbnails = Callable[[int], bytes | None]
"""Returns the JPEG thumbnail of a row; None if it has none."""

_NO_NEIGHBOR = 2**32 - 1
_MOST_NEIGHBORS = 24
_MOST_CLASSES = 2000  # values of a column that is colored by class
_PER_CLUSTER, _CLUSTERS, _PER_GROUP, _GROUPS = (
    8,
    200,
    12,
    100,
)  # images of the panels, to have within the page


def places(whole: Map) -> NDArray[np.float32]:
    """Return the points (N, 2), moved and scaled to lie within -1 and 1 with their aspect ratio kept."""
    xy = np.stack([_floats(whole.table.column(axis)) for axis in ("x", "y")], axis=1)
    xy = np.nan_to_num(xy, posinf=0, neginf=0)
    if not len(xy):
        return xy
    low, high = xy.min(axis=0), xy.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-12)
    return ((xy - (low + high) / 2) / half).astype(np.float32)


def chunk_order(whole: Map, xy: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return all rows (N,) in the order of the chunks: those that the panels show, then along a Z-curve.

    Images that are close on the map are thus in the same chunks. xy: points (N, 2) within -1 and 1.
    """
    facts = whole.facts
    first = [row for one in facts["clusters"][:_CLUSTERS] for row in one["representatives"][:_PER_CLUSTER]]
    first += [row for rows in facts["duplicates"][:_GROUPS] for row in rows[:_PER_GROUP]]
    featured = np.array(list(dict.fromkeys([*first, *outliers(whole)]))[:CHUNK], dtype=np.int64)
    curve = np.argsort(_z_curve(xy), kind="stable")
    is_featured = np.zeros(len(xy), dtype=bool)
    is_featured[featured] = True
    return np.concatenate([featured, curve[~is_featured[curve]]]).astype(np.uint32)


def outliers(whole: Map) -> list[int]:
    """Return the rows with the highest outlier scores, highest first; [] if there are no scores."""
    scores = _floats(whole.table.column("outlier"))
    if not len(scores) or np.isnan(scores).all():
        return []
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:OUTLIERS]
    return [int(row) for row in order]


def columns(whole: Map) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
    """Yield the description and the values of each column to color by.

    Numbers are float32 (N,), NaN where there is none. Classes are int32 (N,), an index into the description's
    `values` or -1. Columns of other types, with too many classes, or without any value are left out.
    """
    table = whole.table
    grouped = np.full(len(table), -1, dtype=np.int32)
    for rows in whole.facts["duplicates"]:
        grouped[rows] = 0
    for name, title in (("cluster", "Cluster"), ("label", "Label")):
        yield from _classes(name, title, table.column(name))
    if (grouped == 0).any():
        yield (
            {"name": "duplicate", "title": "Duplicate", "kind": "class", "values": ["has a duplicate"]},
            grouped,
        )
    yield from _numbers("outlier", "Outlier score", table.column("outlier"))
    for name in table.schema.names:
        if name not in SCHEMA.names:
            kind = table.schema.field(name).type
            number = pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not name.endswith("_id"))
            yield from (_numbers if number else _classes)(name, name, table.column(name))


def _numbers(name: str, title: str, column: Any) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
    values = _floats(column)
    if not np.isnan(values).all():
        yield {"name": name, "title": title, "kind": "number"}, values


def _classes(name: str, title: str, column: Any) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return
    found = column.to_pylist()
    missing = (None, -1) if name == "cluster" else (None,)
    kinds = sorted({value for value in found if value not in missing}, key=lambda v: (isinstance(v, str), v))
    if 0 < len(kinds) <= _MOST_CLASSES:
        number = {value: i for i, value in enumerate(kinds)}
        codes = np.fromiter((number.get(value, -1) for value in found), np.int32, len(found))
        yield {"name": name, "title": title, "kind": "class", "values": [str(v) for v in kinds]}, codes


def chunks(whole: Map, order: NDArray[np.uint32], thumbnails: Thumbnails | None = None) -> Iterator[bytes]:
    """Yield each chunk's neighbors and thumbnails, as src/data.js reads them.

    uint32 n and k; n + 1 offsets of JPEG files; n x k rows of neighbors; then uint8 n x k similarities, 255
    for a cosine of 1; and the files. thumbnails: the table's own by default.
    """
    column = whole.table.column("thumbnail")
    neighbors, similarity = _matrices(whole)
    for at in range(0, len(order), CHUNK):
        rows = order[at : at + CHUNK]
        if thumbnails is None:
            files = [jpeg or b"" for jpeg in column.take(pa.array(rows)).to_pylist()]
        else:
            files = [thumbnails(int(row)) or b"" for row in rows]
        offsets = np.cumsum([0, *(len(file) for file in files)], dtype=np.uint32)
        head = np.array([len(rows), neighbors.shape[1]], dtype=np.uint32)
        parts = [head.tobytes(), offsets.tobytes(), neighbors[rows].tobytes(), similarity[rows].tobytes()]
        yield b"".join([*parts, *files])


def _matrices(whole: Map) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Return neighbors, padded, and their similarities from 0 to 255, (N, k) each."""
    lists = whole.table.column("neighbors").combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy()) if len(lists) else np.zeros(0, dtype=np.int64)
    k = min(int(lengths.max(initial=0)), _MOST_NEIGHBORS)
    starts = lists.offsets.to_numpy()[:-1] if len(lists) else lengths
    inside = np.arange(k) < lengths[:, None]
    at = np.where(inside, starts[:, None] + np.arange(k), 0)
    rows = lists.values.to_numpy(zero_copy_only=False)
    cosines = whole.table.column("similarity").combine_chunks().values.to_numpy(zero_copy_only=False)
    neighbors = np.full((len(lengths), k), _NO_NEIGHBOR, dtype=np.uint32)
    similarity = np.zeros((len(lengths), k), dtype=np.uint8)
    if k:
        neighbors[inside] = rows[at][inside]
        similarity[inside] = np.rint(np.clip(cosines[at][inside], 0, 1) * 255)
    return neighbors, similarity


def encoded(data: bytes, compress: bool) -> str:
    """Return bytes as base64, compressed by gzip or as they are."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0) if compress else data).decode()


def _floats(column: Any) -> NDArray[np.float32]:
    """Return a column of numbers as float32 (N,), NaN for null."""
    values: NDArray[np.float32] = column.cast(pa.float32()).to_numpy()
    return values


def _z_curve(xy: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return each point's position along a Z-shaped curve that fills the square (Morton 1966), (N,)."""
    cells = np.clip((xy + 1) * 32767.5, 0, 65535).astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        cells = (cells | (cells << np.uint32(shift))) & np.uint32(mask)
    result: NDArray[np.uint32] = cells[:, 0] | (cells[:, 1] << np.uint32(1))
    return result
