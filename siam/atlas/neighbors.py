"""Exact nearest neighbors by cosine, and the distance to them as a measure of how odd an image is."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.measure.knn import nearest
from siam.runs.bars import OnProgress, running_total

_QUERIES = 8192  # per block: each normalizes the vectors once more, which costs little next to the products


@dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbors of each of M vectors, nearest first."""

    rows: NDArray[np.int32]
    """Row numbers (M, k)."""
    similarity: NDArray[np.float32]
    """Cosines (M, k)."""

    def first(self, k: int) -> "Neighbors":
        """Return the k nearest alone."""
        return Neighbors(self.rows[:, :k], self.similarity[:, :k])

    def distance(self) -> NDArray[np.float32]:
        """Return each image's mean distance, 1 - cosine, to its neighbors (M,): the higher, the odder."""
        return (1 - self.similarity).mean(axis=1, dtype=np.float64).astype(np.float32)


def neighbors_of_all(vectors: NDArray[np.float32], k: int, progress: OnProgress) -> Neighbors:
    """Return the k nearest other vectors of each vector (N, D); k is capped at N - 1.

    Compares all with all, in blocks: memory is bounded for any N. Vectors need not be normalized.
    """
    k = min(k, len(vectors) - 1)
    found, similarity = np.empty((len(vectors), k), np.int32), np.empty((len(vectors), k), np.float32)
    bank, add = torch.from_numpy(vectors), running_total(progress, len(vectors))
    for start in range(0, len(vectors), _QUERIES):
        block = slice(start, start + _QUERIES)
        cosines, rows = _sorted(*nearest(bank, F.normalize(bank[block].float(), dim=1), k + 1))
        own = torch.arange(start, start + len(rows))[:, None]
        cosines, rows = _without(own, cosines, rows)
        found[block], similarity[block] = rows.numpy(), cosines.numpy()
        add(len(rows))
    return Neighbors(found, similarity)


def neighbors_of(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, progress: OnProgress
) -> Neighbors:
    """Return the k nearest of `vectors` (N, D) for each query (M, D); k is capped at N."""
    k = min(k, len(vectors))
    found, similarity = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    bank, add = torch.from_numpy(vectors), running_total(progress, len(queries))
    for start in range(0, len(queries), _QUERIES):
        block = slice(start, start + _QUERIES)
        q = F.normalize(torch.from_numpy(queries[block]).float(), dim=1)
        cosines, rows = _sorted(*nearest(bank, q, k))
        found[block], similarity[block] = rows.numpy(), cosines.numpy()
        add(len(rows))
    return Neighbors(found, similarity)


def _sorted(cosines: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by falling cosine; equal ones by row, so that the result does not depend on the blocks."""
    by_row = rows.argsort(dim=1)
    cosines, rows = cosines.gather(1, by_row), rows.gather(1, by_row)
    order = cosines.argsort(dim=1, descending=True, stable=True)
    return cosines.gather(1, order).clamp(-1, 1), rows.gather(1, order)


def _without(own: Tensor, cosines: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Remove each row's own number or, where more than k copies crowd it out, the last neighbor."""
    drop = rows == own
    drop[~drop.any(dim=1), -1] = True
    shape = len(rows), rows.shape[1] - 1
    return cosines[~drop].view(shape), rows[~drop].view(shape)
