"""A map of vectors in two dimensions by UMAP, from exact neighbors (McInnes et al. 2018, arXiv 1802.03426).

benchmarks/maps.py compares it with PaCMAP. Of larger sets a sample is mapped, and the others are placed among
the neighbors that they have in it.
"""

import warnings
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from siam.atlas.neighbors import Neighbors, neighbors_of, neighbors_of_all
from siam.errors import SettingsError
from siam.runs.bars import OnProgress

MAPPED = 200_000
"""Number of images above which a sample of that size is mapped."""

NEIGHBORS = 14
"""Neighbors per image that the map is made from: UMAP's default, 15, less the image itself."""

_PLACED_BY = 5  # neighbors in the sample
_PACKAGE = "umap"


def require_layout() -> None:
    """Raise SettingsError if UMAP is not installed."""
    if find_spec(_PACKAGE) is None:
        raise SettingsError("umap-learn is not installed: pip install 'siam[explore]'")


def lay_out(
    unit: NDArray[np.float32], neighbors: Neighbors, progress: OnProgress, seed: int = 0, mapped: int = MAPPED
) -> NDArray[np.float32]:
    """Return positions (N, 2), centered, for unit vectors (N, D) and their neighbors.

    mapped: size of the sample if there are more images than that.
    """
    count = len(unit)
    progress(0, count)
    if count <= mapped:
        positions = _map(unit, neighbors, seed)
    else:
        rows = np.sort(np.random.default_rng(seed).choice(count, mapped, replace=False))
        sample = unit[rows]
        own = neighbors_of_all(sample, NEIGHBORS, lambda done, total: None)
        positions = _place(unit, rows, sample, _map(sample, own, seed), progress)
    progress(count, count)
    return np.ascontiguousarray(positions - positions.mean(axis=0), np.float32)


def _map(unit: NDArray[np.float32], neighbors: Neighbors, seed: int) -> NDArray[np.float32]:
    """Map unit vectors (n, D) by UMAP; by their first two coordinates where they are too few for it."""
    if len(unit) <= NEIGHBORS + 1:
        return np.pad(unit, ((0, 0), (0, 2)))[:, :2]
    rows, similarity = (x[:, :NEIGHBORS] for x in (neighbors.rows, neighbors.similarity))
    own = np.arange(len(unit), dtype=np.int32)[:, None]
    distances = np.concatenate([np.zeros_like(similarity[:, :1]), 1 - similarity], axis=1)
    known = np.concatenate([own, rows], axis=1), distances, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on TensorFlow, threads and transform, none of which is used here
        import umap

        mapper = umap.UMAP(n_neighbors=known[0].shape[1], random_state=seed, precomputed_knn=known)
        return np.asarray(mapper.fit_transform(unit), np.float32)


def _place(
    unit: NDArray[np.float32],
    rows: NDArray[np.int64],
    sample: NDArray[np.float32],
    mapped: NDArray[np.float32],
    progress: OnProgress,
) -> NDArray[np.float32]:
    """Return positions of all images (N, 2): those of the sample's `rows`, and the others among neighbors.

    Each lies at the mean of its nearest neighbors in the sample that are near each other on the map: the mean
    of two islands would be a place in the sea.
    """
    positions = np.empty((len(unit), 2), np.float32)
    positions[rows] = mapped
    others = np.setdiff1d(np.arange(len(unit)), rows)
    near = neighbors_of(unit[others], sample, _PLACED_BY, lambda done, total: progress(done, len(unit)))
    candidates = mapped[near.rows]  # (M, k, 2)
    from_nearest = np.linalg.norm(candidates - candidates[:, :1], axis=2)  # (M, k)
    weight = np.exp(-from_nearest) * np.maximum(near.similarity, 0.01)
    positions[others] = (candidates * weight[..., None]).sum(axis=1) / weight.sum(axis=1)[:, None]
    return positions
