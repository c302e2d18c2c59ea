"""Maps of vectors in two dimensions: UMAP and PaCMAP, alone and with our neighbors; and clusters.

python benchmarks/maps.py VECTORS.parquet [--images 5000] [--rounds 3] [--out FILE]

VECTORS.parquet is a file of `siam embed` with labels. The tables have seconds on the wall and of the CPU
(the machine may be shared), the trustworthiness of each map (Venna & Kaski 2001, k = 15, 1 is best), and how
many of the 15 nearest images on the map are of an image's own class; and for clusters the mutual information
with the classes.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, save, show
from numpy.typing import NDArray

from siam.atlas.clusters import cluster
from siam.atlas.embedded import read_vectors
from siam.atlas.neighbors import Neighbors, neighbors_of_all

K = 15

Vectors = NDArray[np.float32]


def main() -> None:
    warnings.simplefilter("ignore")
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    args = parser.parse_args()
    found = read_vectors(args.vectors)
    rows = np.random.default_rng(0).permutation(len(found))[: args.images]
    vectors = found.vectors[rows]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = [found.labels[row] or "" for row in rows]
    labels = np.unique(classes, return_inverse=True)[1]
    seconds = timed_maps(unit, args.rounds)
    maps = {name: seconds[name].pop("map") for name in seconds}
    facts = {name: {**seconds[name], **quality(unit, maps[name], labels)} for name in maps}
    title = f"maps of {len(unit):,} vectors of {unit.shape[1]}"
    parts = [table(title, facts), table("clusters", clusterings(unit, maps, labels))]
    save(args.out, parts, images=len(unit), classes=len(set(classes)))


def timed_maps(unit: Vectors, rounds: int) -> dict[str, dict[str, Any]]:
    """Return each candidate's last map, and the median of its seconds after a round of warming up."""
    wall: dict[str, list[float]] = {name: [] for name in MAPS}
    own: dict[str, list[float]] = {name: [] for name in MAPS}
    maps: dict[str, Vectors] = {}
    for turn in range(rounds + 1):
        for name, run in MAPS.items():
            start, started = time.perf_counter(), time.process_time()
            maps[name] = run(unit)
            if turn:
                wall[name].append(time.perf_counter() - start)
                own[name].append(time.process_time() - started)
    return {
        name: {"map": maps[name], "s": statistics.median(wall[name]), "CPU s": statistics.median(own[name])}
        for name in MAPS
    }


def ours(unit: Vectors, k: int) -> Neighbors:
    return neighbors_of_all(unit, k, lambda done, total: None)


def umap_alone(unit: Vectors) -> Vectors:
    import umap

    return umap.UMAP(metric="cosine", random_state=0).fit_transform(unit)


def umap_with_neighbors(unit: Vectors) -> Vectors:
    import umap

    found = ours(unit, K - 1)
    own = np.arange(len(unit), dtype=np.int32)[:, None]
    rows = np.concatenate([own, found.rows], axis=1)
    distances = np.concatenate([np.zeros_like(found.similarity[:, :1]), 1 - found.similarity], axis=1)
    return umap.UMAP(n_neighbors=K, random_state=0, precomputed_knn=(rows, distances, None)).fit_transform(
        unit
    )


def pacmap_alone(unit: Vectors) -> Vectors:
    import pacmap

    return pacmap.PaCMAP(random_state=0).fit_transform(unit, init="pca")


def pacmap_with_neighbors(unit: Vectors) -> Vectors:
    import pacmap

    rows = ours(unit, 10).rows
    pairs = np.stack(np.broadcast_arrays(np.arange(len(unit))[:, None], rows), axis=-1).reshape(-1, 2)
    mapper = pacmap.PaCMAP(n_neighbors=10, pair_neighbors=pairs.astype(np.int32), random_state=0)
    return mapper.fit_transform(unit, init="pca")


MAPS: dict[str, Callable[[Vectors], Vectors]] = {
    "UMAP": umap_alone,
    "UMAP, our neighbors": umap_with_neighbors,
    "PaCMAP": pacmap_alone,
    "PaCMAP, our neighbors": pacmap_with_neighbors,
}


def quality(unit: Vectors, positions: Vectors, labels: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=K).fit(positions).kneighbors(return_distance=False)
    return {
        "trustworthiness": trustworthiness(unit, positions, n_neighbors=K, metric="cosine"),
        "% of own class": 100 * float((labels[near] == labels[:, None]).mean()),
    }


def clusterings(
    unit: Vectors, maps: dict[str, Vectors], labels: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import normalized_mutual_info_score

    def facts(run: Callable[[], NDArray[Any]]) -> dict[str, float]:
        started = time.process_time()
        found = run()
        seconds = time.process_time() - started
        return {
            "CPU s": seconds,
            "clusters": float(found.max() + 1),
            "% in none": 100 * float((found < 0).mean()),
            "mutual information": normalized_mutual_info_score(labels, found),
        }

    size = max(5, len(unit) // 100)
    return {
        "k-means of the vectors": facts(lambda: cluster(unit, None, 1).labels),
        "HDBSCAN of the vectors": facts(lambda: HDBSCAN(size, min_samples=5, copy=True).fit_predict(unit)),
        **{
            f"HDBSCAN of the map by {name}": facts(
                lambda at=maps[name]: HDBSCAN(size, min_samples=5, copy=True).fit_predict(at)
            )
            for name in ("UMAP, our neighbors", "PaCMAP, our neighbors")
        },
    }


def table(title: str, rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print a table with a row per candidate, and return it as a part of a result."""
    columns = {name: {row: facts[name] for row, facts in rows.items()} for name in next(iter(rows.values()))}
    show(title, columns)
    return {"title": title, **columns}


if __name__ == "__main__":
    main()
