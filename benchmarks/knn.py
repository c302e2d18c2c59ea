"""Weighted kNN: ours against exact search by FAISS (IndexFlatIP) followed by the same vote.

python benchmarks/knn.py [--bank 50000] [--queries 10000] [--features 512] [--rounds 3] [--out FILE]

Both classify every query. The table has queries per second, and peak memory in addition to the features.
"""

from importlib.util import find_spec

import numpy as np
import torch
from measure import alternating, arguments, in_own_process, memory_mb, report, reset_peak, save
from torch import Tensor
from torch.nn import functional as F

from siam.measure.knn import knn_predict

CLASSES, K, TEMPERATURE = 10, 200, 0.1
OURS = "ours"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--bank", type=int, default=50000)
    parser.add_argument("--queries", type=int, default=10000)
    parser.add_argument("--features", type=int, default=512)
    args = parser.parse_args()
    inputs = features(args.bank, args.queries, args.features)
    candidates = CANDIDATES if find_spec("faiss") else {OURS: ours}
    if len(candidates) == 1:
        print("skipped: FAISS is not installed")
    predicted = {name: run(*inputs) for name, run in candidates.items()}
    agree = {
        name: 100 * float((found == predicted[OURS]).double().mean()) for name, found in predicted.items()
    }
    shape = (args.bank, args.queries, args.features)
    memory = {name: in_own_process(peak_mb, name, *shape) for name in candidates}
    rates = alternating(
        {name: lambda run=run: len(run(*inputs)) for name, run in candidates.items()}, args.rounds
    )
    title = f"kNN, k = {K}: {args.bank:,} x {args.queries:,} x {args.features} float32"
    more = {"peak MB above the features": memory, "% classified as ours": agree}
    part = report(title, "queries/s", rates, next(iter(candidates)), more)
    save(args.out, [part], threads=torch.get_num_threads())


def features(n: int, m: int, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a bank, its labels, and queries: ten broad clusters, so that neighbors are informative."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, dimension, generator=generator)
    labels = torch.randint(0, CLASSES, (n + m,), generator=generator)
    x = torch.randn(n + m, dimension, generator=generator).mul_(2).add_(centers[labels])
    return x[:n], labels[:n], x[n:]


def ours(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    return knn_predict(bank, labels, queries, CLASSES, K, TEMPERATURE).argmax(dim=1)


def by_faiss(bank: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(F.normalize(bank, dim=1).numpy())
    cosine, nearest = index.search(F.normalize(queries, dim=1).numpy(), K)
    weights = np.exp((cosine - 1) / TEMPERATURE)
    votes = np.zeros((len(queries), CLASSES), dtype=np.float32)
    np.add.at(votes, (np.arange(len(queries))[:, None], labels.numpy()[nearest]), weights)
    return torch.from_numpy(votes.argmax(axis=1))


CANDIDATES = {"FAISS flat and the vote": by_faiss, OURS: ours}


def peak_mb(name: str, n: int, m: int, dimension: int) -> int:
    """Return the peak memory in MB above the features while a candidate runs (Linux)."""
    inputs = features(n, m, dimension)
    run = CANDIDATES[name]
    run(inputs[0][:1000], inputs[1][:1000], inputs[2][:10])  # warm up: load libraries, start threads
    before = memory_mb("VmRSS")
    reset_peak()
    run(*inputs)
    return memory_mb("VmHWM") - before


if __name__ == "__main__":
    main()
