"""The vectors of a set of images, with their paths and labels: computed, or read from a Parquet file."""

import json
import os
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from siam.convert.vectors import Embedder
from siam.data.images import Images, ImageSets, class_of
from siam.data.sources import open_images
from siam.errors import DataError, RunError, first_line
from siam.runs.bars import print_line, print_sets, running_total, transient_progress
from siam.system.device import float32_by_default
from siam.system.files import regular
from siam.system.names import stored

_ROWS = 4096  # read at a time


@dataclass(frozen=True)
class Embedded:
    """Vectors of N images."""

    vectors: NDArray[np.float32]
    """(N, D), not normalized."""
    paths: list[str]
    """Names within the set, as `siam embed` writes them."""
    labels: list[str | None]
    """Class names; None for images without."""
    about: dict[str, Any] = field(default_factory=dict)
    """The encoder and the images, if `siam embed` wrote the file: `weights`, `layer`, `data`, `images`."""

    def __len__(self) -> int:
        return len(self.paths)


def is_vectors(place: str | Path) -> bool:
    """Return True for a Parquet file with a column of embeddings."""
    if Path(place).suffix.lower() not in (".parquet", ".pq") or not os.path.isfile(place):
        return False
    try:
        return "embedding" in pq.read_schema(place).names
    except (OSError, pa.ArrowException):
        return False


def read_vectors(file: str | Path) -> Embedded:
    """Read a file of `siam embed`, or another Parquet file with the columns `path` and `embedding`.

    A column `label` of strings is optional. Raises RunError if the file cannot be read, and DataError if it
    has no such columns, fewer than two rows, or values that are not finite.
    """
    try:
        with pq.ParquetFile(regular(Path(file).expanduser())) as parquet:
            missing = [name for name in ("path", "embedding") if name not in parquet.schema_arrow.names]
            if missing:
                columns = ", ".join(parquet.schema_arrow.names)
                raise DataError(f"{file} has no column '{missing[0]}', only {columns or 'none'}")
            found = _read(parquet)
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or first_line(error)}") from None
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{file} cannot be read as vectors: {first_line(error)}") from None
    if len(found) < 2:
        raise DataError(f"{file} has {len(found)} vectors: at least 2 are needed")
    if not np.isfinite(found.vectors).all():
        raise DataError(f"{file} has vectors with values that are not finite: embed the images again")
    return found


def _read(parquet: Any) -> Embedded:
    has_labels = "label" in parquet.schema_arrow.names
    vectors: NDArray[np.float32] | None = None
    paths: list[str] = []
    labels: list[str | None] = []
    columns = ["path", "embedding", *(["label"] if has_labels else [])]
    for batch in parquet.iter_batches(_ROWS, columns=columns):
        rows = _matrix(batch.column("embedding"), len(batch))
        if vectors is None:
            vectors = np.empty((parquet.metadata.num_rows, rows.shape[1]), np.float32)
        vectors[len(paths) : len(paths) + len(rows)] = rows
        paths += [str(path) for path in batch.column("path").to_pylist()]
        values = batch.column("label").to_pylist() if has_labels else [None] * len(batch)
        labels += [None if value is None else str(value) for value in values]
    metadata = parquet.schema_arrow.metadata or {}
    about = json.loads(metadata.get(b"siam", b"{}"))
    if not isinstance(about, dict):
        raise ValueError("its metadata is damaged")
    return Embedded(np.empty((0, 0), np.float32) if vectors is None else vectors, paths, labels, about)


def _matrix(column: Any, rows: int) -> NDArray[Any]:
    """Return a column of lists as an array (rows, D). Raises ValueError unless all have the same length."""
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(is_kind(column.type) for is_kind in kinds):
        raise ValueError("its column 'embedding' holds no lists of numbers")
    values = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or values.size % rows:
        raise ValueError("its vectors are missing or differ in length")
    if not pa.types.is_fixed_size_list(column.type) and len(set(np.diff(column.offsets))) > 1:
        raise ValueError("its vectors differ in length")
    return values.reshape(rows, -1)


@float32_by_default()
def embed_set(
    run: str | Path, data: str | Path, device: str, workers: int, console: Console
) -> tuple[Embedded, ImageSets]:
    """Embed all images with a progress bar, training images first. Returns the vectors and the images.

    Unreadable images are named and left out. Raises SiamError.
    """
    sets = open_images(data)
    print_sets(console, sets)
    embedder = Embedder(run, device, workers=workers)
    vectors: list[NDArray[np.float32]] = []
    paths: list[str] = []
    labels: list[str | None] = []
    unreadable: dict[int, str] = {}
    with transient_progress(console) as bar:
        for images in parts_of(sets):
            add = running_total(bar(f"embed {images.name}"), len(images))
            for features, indices in embedder.vectors(images, np.arange(len(images)), unreadable):
                vectors.append(features)
                paths += [stored(images.path(int(i))) for i in indices]
                classes = [class_of(images, int(i)) for i in indices]
                labels += [None if kind is None else stored(kind) for kind in classes]
                add(len(indices))
    if len(paths) < 2:
        raise DataError(f"{data} has {len(paths)} readable images: at least 2 are needed")
    if unreadable:
        print_line(console, f"{len(unreadable):,} images are unreadable and left out")
    return Embedded(np.concatenate(vectors), paths, labels), sets


def parts_of(sets: ImageSets) -> list[Images]:
    """Return the training images and, if there are any, the validation images."""
    return [sets.train] if sets.val is None else [sets.train, sets.val]


class Located:
    """The images of a set in the order of a list of paths."""

    def __init__(self, sets: ImageSets, paths: list[str]) -> None:
        self.parts = parts_of(sets)
        places: defaultdict[str, deque[tuple[int, int]]] = defaultdict(deque)
        for part, images in enumerate(self.parts):
            for i in range(len(images)):
                places[stored(images.path(i))].append((part, i))
        # Names may repeat, in lists for example: the first row gets the first image of that name.
        found = [places[path].popleft() if places.get(path) else (-1, -1) for path in paths]
        self.place = np.array(found, np.int64).reshape(-1, 2)
        """Part and index of each row's image (N, 2); -1 where the set has no image of that name."""

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, row: int) -> tuple[Images, int] | None:
        """Return the image of a row, as an image set and an index."""
        part, i = self.place[row]
        return None if part < 0 else (self.parts[part], int(i))

    @property
    def missing(self) -> NDArray[np.int64]:
        """Rows without an image."""
        return np.flatnonzero(self.place[:, 0] < 0)
