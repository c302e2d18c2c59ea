"""An index of vectors in files beside them, for sets too large to compare a query with every image.

FAISS's inverted lists (Johnson et al. 2017, arXiv 1702.08734) of the vectors themselves: k-means divides them
into cells, and a query visits the cells nearest to it. The index is mapped into memory, not read, so that it
opens at once and several processes share it.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.atlas.neighbors import Neighbors
from siam.errors import RunError, SettingsError
from siam.runs.bars import OnProgress, running_total
from siam.system.files import write_atomically, writing

EXACT_BELOW = 1_000_000
"""Number of vectors from which an index is used; fewer are all compared."""

_CELLS = 4  # times the square root of the number of vectors, as FAISS's guide advises
_TRAINING = 64  # vectors per cell to find the cells with
_VISITED = 64  # cells per query
_ADDED = 65536  # vectors at a time
_FOOTER = 65536  # bytes at the end of a Parquet file, which describe all of it


def index_of(vectors_file: Path) -> Path:
    """Return the name of the index of a file of vectors."""
    return vectors_file.with_name(vectors_file.name + ".faiss")


class Index:
    """An index of N vectors, opened from its file."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def nearest(self, queries: NDArray[np.float32], k: int) -> Neighbors:
        """Return the k nearest of each query (M, D), by cosine, nearest first; few may be missed."""
        similarity, rows = self.index.search(_unit(queries), k)
        return Neighbors(rows.astype(np.int32), np.clip(similarity, -1, 1))


def open_or_build(vectors_file: Path, vectors: NDArray[np.float32], progress: OnProgress) -> Index:
    """Open the index of a file of vectors (N, D); build it first if there is none, or an outdated one.

    Raises SettingsError if FAISS is not installed, and RunError if the index cannot be written.
    """
    file = index_of(vectors_file)
    about = _about(vectors_file)
    if not _is_current(file, about):
        _build(file, vectors, progress)
        with writing(file):
            write_atomically(_about_file(file), lambda opened: opened.write(json.dumps(about).encode()))
    return open_index(file)


def open_index(file: Path) -> Index:
    """Map an index into memory. Raises RunError if the file is none."""
    faiss = _faiss()
    try:
        index = faiss.read_index(os.fspath(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError:
        raise RunError(f"{file} is not an index of FAISS: delete it, and it is built again") from None
    faiss.extract_index_ivf(index).nprobe = _VISITED
    return Index(index)


def _build(file: Path, vectors: NDArray[np.float32], progress: OnProgress) -> None:
    faiss = _faiss()
    count, dimension = vectors.shape
    cells = max(1, min(count // 39, round(_CELLS * count**0.5)))  # FAISS warns below 39 vectors per cell
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, cells, faiss.METRIC_INNER_PRODUCT)
    add = running_total(progress, count)
    add(0)
    sample = np.random.default_rng(0).choice(count, min(count, cells * _TRAINING), replace=False)
    index.train(_unit(vectors[np.sort(sample)]))
    for start in range(0, count, _ADDED):
        block = _unit(vectors[start : start + _ADDED])
        index.add(block)
        add(len(block))
    with writing(file):
        write_atomically(
            file, lambda opened: faiss.write_index(index, faiss.PyCallbackIOWriter(opened.write))
        )


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise SettingsError("faiss is not installed: pip install 'siam[explore]'") from None
    return faiss


def _about(vectors_file: Path) -> dict[str, Any]:
    """Return the size and a hash of the end of a Parquet file, which changes with its contents."""
    size = vectors_file.stat().st_size
    with vectors_file.open("rb") as file:
        file.seek(max(0, size - _FOOTER))
        return {"bytes": size, "footer": hashlib.sha256(file.read()).hexdigest()}


def _about_file(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _is_current(file: Path, about: dict[str, Any]) -> bool:
    try:
        return file.exists() and json.loads(_about_file(file).read_bytes()) == about
    except (OSError, ValueError):
        return False
