"""`siam explore` of 100,000 vectors: seconds and peak memory; and its neighbors against FAISS.

python benchmarks/explore.py [--images 100000] [--features 512] [--clusters 200] [--threads 2] [--out FILE]
python benchmarks/explore.py --index [--images 100000]

The vectors are random, in clusters, so that there is something to map. The command runs as a user runs it, on
vectors in a file, so that no images are read. --index compares the index with exact search: seconds to build
and to open it, queries per second, and the share of the ten nearest that it finds.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import arguments, save, show, timed
from numpy.typing import NDArray

from siam.atlas.index import index_of, open_index, open_or_build
from siam.atlas.neighbors import neighbors_of, neighbors_of_all

QUERIES, K = 1000, 10


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--index", action="store_true")
    args = parser.parse_args()
    vectors = clustered(args.images, args.features, args.clusters)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.parquet"
        write(file, vectors)
        part = index(file, vectors) if args.index else command(file, args.threads)
    show(f"{args.images:,} x {args.features}", {name: {"": value} for name, value in part.items()})
    save(args.out, [part], images=args.images, features=args.features, threads=args.threads)


def clustered(images: int, features: int, clusters: int) -> NDArray[np.float32]:
    """Return vectors around random centers, each cluster with a few directions of its own."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(clusters, features)).astype(np.float32)
    axes = rng.normal(size=(clusters, 8, features)).astype(np.float32) / 3
    which = rng.integers(0, clusters, images)
    vectors = centers[which] + 0.2 * rng.normal(size=(images, features)).astype(np.float32)
    for cluster in range(clusters):
        rows = np.flatnonzero(which == cluster)
        vectors[rows] += rng.normal(size=(len(rows), 8)).astype(np.float32) @ axes[cluster]
    return vectors


def write(file: Path, vectors: NDArray[np.float32]) -> None:
    """Write a file as `siam embed` does, in row groups."""
    schema = pa.schema({"path": pa.string(), "embedding": pa.list_(pa.float32(), vectors.shape[1])})
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(vectors), 4096):
            block = vectors[start : start + 4096]
            paths = [f"{start + i:08d}.jpg" for i in range(len(block))]
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), block.shape[1])
            writer.write_table(pa.table({"path": paths, "embedding": column}, schema=schema))


def command(file: Path, threads: int) -> dict[str, float]:
    """Run `siam explore`. Returns seconds on the wall and of the CPU, and peak memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    args = [
        sys.executable,
        "-m",
        "siam",
        "explore",
        "--vectors",
        file,
        "--out",
        file.parent / "map",
        "--json",
    ]
    start = time.perf_counter()
    done = subprocess.run(args, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts = json.loads(done.stdout)
    return {
        "s": seconds, "CPU s": used.ru_utime + used.ru_stime, "peak MB": used.ru_maxrss / 1024,
        "clusters": facts["clusters"], "MB of map.parquet": os.path.getsize(facts["map"]) / 1e6,
    }  # fmt: skip


def index(file: Path, vectors: NDArray[np.float32]) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    rows = rng.choice(len(vectors), QUERIES, replace=False)
    queries = vectors[rows] + 0.1 * rng.normal(size=(QUERIES, vectors.shape[1])).astype(np.float32)
    _, building = timed(lambda: bool(open_or_build(file, vectors, _silent)))
    _, opening = timed(lambda: bool(open_index(index_of(file))))
    opened = open_index(index_of(file))
    opened.nearest(queries[:10], K)
    start = time.perf_counter()
    found = opened.nearest(queries, K)
    by_index = time.perf_counter() - start
    start = time.perf_counter()
    exact = neighbors_of(queries, vectors, K, _silent)
    all_compared = time.perf_counter() - start
    same = [len({*a} & {*b}) for a, b in zip(found.rows, exact.rows, strict=True)]
    return {
        "s to build": building, "s to open": opening, "queries/s": QUERIES / by_index,
        "exact queries/s": QUERIES / all_compared, "% of ten nearest found": 100 * np.mean(same) / K,
        **against_faiss(vectors[:20_000]),
    }  # fmt: skip


def against_faiss(vectors: NDArray[np.float32]) -> dict[str, float]:
    """Return the rates at which both find the neighbors of all vectors, exactly."""
    import faiss

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(unit.shape[1])
    flat.add(unit)
    _, theirs = timed(lambda: len(flat.search(unit, 21)[1]))
    _, ours = timed(lambda: len(neighbors_of_all(unit, 20, _silent).rows))
    return {"neighbors of all/s by FAISS": len(unit) / theirs, "ours": len(unit) / ours}


def _silent(done: int, total: int) -> None:
    pass


if __name__ == "__main__":
    main()
