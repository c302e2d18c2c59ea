"""Clusters of images by their vectors, and the pictures that stand for each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = 100
"""Clusters found at most, if their number is not given."""
_ROUNDS = 3  # of k-means, from other beginnings


@dataclass(frozen=True)
class Clusters:
    """A partition of N images."""

    labels: NDArray[np.int32]
    """Cluster of each image (N,); 0 is the largest."""
    representatives: list[list[int]]
    """Rows of each cluster's representatives, the one nearest to the center first."""


def cluster(unit: NDArray[np.float32], count: int | None, representatives: int, seed: int = 0) -> Clusters:
    """Divide unit vectors (N, D) among `count` clusters by k-means; None: about sqrt(N / 2), at most 100.

    representatives: pictures per cluster; they lie near its center, but not all on the same spot.
    """
    from sklearn.cluster import MiniBatchKMeans

    if count is None:
        count = int(min(_LARGEST, max(2, round((len(unit) / 2) ** 0.5))))
    count = min(count, len(unit))
    batch = min(len(unit), max(4096, 4 * count))
    means = MiniBatchKMeans(count, random_state=seed, n_init=_ROUNDS, batch_size=batch)
    found = means.fit_predict(unit)
    kept, labels, sizes = np.unique(found, return_inverse=True, return_counts=True)  # some may be empty
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order))
    ranked = rank[labels]  # (N,)
    centers = means.cluster_centers_[kept[order]]
    chosen = [
        _representatives(unit, np.flatnonzero(ranked == number), centers[number], representatives)
        for number in range(len(order))
    ]
    return Clusters(ranked, chosen)


def _representatives(
    unit: NDArray[np.float32], rows: NDArray[np.int64], center: NDArray[np.float32], count: int
) -> list[int]:
    """Return rows near the center of their cluster, each as different from the ones before as possible.

    Candidates are the nearer half of the cluster, so that outliers do not represent it.
    """
    by_distance = rows[np.argsort(-(unit[rows] @ center), kind="stable")]
    candidates = by_distance[: max(count, min(len(rows) // 2, 2000))]
    chosen = [0]
    nearest = unit[candidates] @ unit[candidates[0]]  # cosine to the nearest one that is chosen
    while len(chosen) < min(count, len(candidates)):
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, unit[candidates] @ unit[candidates[chosen[-1]]])
    return [int(candidates[i]) for i in chosen]
