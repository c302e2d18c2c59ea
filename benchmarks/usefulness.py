"""Measures that need no labels, compared with kNN accuracy and a linear probe, over the checkpoints of runs.

python benchmarks/usefulness.py RUN [RUN ...] [--images 512] [--out FILE] [--figure FILE]

Every checkpoint of every run is measured (start the runs with --checkpoint.keep 6), as are the untrained
network and the raw pixels. Printed: Spearman's rank correlation of each measure with kNN accuracy, within
each set of images (averaged over the sets) and over all of them; and how often the measure tells correctly
whether kNN accuracy is above that of raw pixels, by whether the measure is above its own value on them.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measure import environment
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.data.images import ImageSets
from siam.data.sources import open_images
from siam.data.subset import spaced
from siam.measure.collapse import effective_rank
from siam.measure.features import center_views, extract
from siam.measure.knn import knn_accuracy
from siam.measure.pairs import retrieval, view_pairs
from siam.network import Network
from siam.runs.checkpoint import checkpoints
from siam.runs.folder import open_run
from siam.runs.tensors import load_checkpoint
from siam.settings.pretraining import Settings
from siam.train.monitor import flat_pixels

BANK, QUERIES = 3000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    rows = [row for run in args.runs for row in measured(run, args.images)]
    table = correlations(rows)
    for name, values in sorted(table.items(), key=lambda item: -item[1]["within"]):
        print(f"{name:24} " + "  ".join(f"{kind} {value:6.3f}" for kind, value in values.items()))
    if args.out:
        args.out.write_text(
            json.dumps({**environment(), "table": table, "checkpoints": rows}, indent=1) + "\n"
        )
    if args.figure:
        draw(rows, table).savefig(args.figure, metadata={"Date": None})


def measured(run: Path, count: int) -> Iterator[dict[str, object]]:
    """Yield a row for each checkpoint of the run, for the untrained network and for raw pixels."""
    opened = open_run(run)
    settings = opened.settings
    sets = open_images(settings.data)
    look = Look(sets, settings, count)
    yield {"run": run.name, "set": Path(settings.data).name, "step": -1, "kind": "pixels", **look.pixels()}
    torch.manual_seed(settings.seed)
    network = Network(settings.method, settings.backbone, settings.views.size, settings.width, settings.stem)
    files = [(load_checkpoint(file)) for file in reversed(checkpoints(run))]
    for contents in (None, *files):
        step = 0
        if contents is not None:
            network.load_state_dict(contents["network"])
            step = contents["progress"]["step"]
        yield {
            "run": run.name, "set": Path(settings.data).name, "step": step,
            "kind": "trained" if step else "untrained", **look.network(network.eval()),
        }  # fmt: skip


class Look:
    """The images of a set, cut for one view size: center crops with labels, and pairs of views without."""

    def __init__(self, sets: ImageSets, settings: Settings, count: int) -> None:
        assert sets.val is not None
        size = settings.views.size
        self.sets = [spaced(sets.train, BANK), spaced(sets.val, QUERIES)]
        self.centers = [list(center_views(images, size)) for images in self.sets]
        self.labels = [torch.from_numpy(images.labels) for images in self.sets]
        self.classes = len(sets.train.classes)
        self.pairs = view_pairs(spaced(sets.train, count), settings)

    def pixels(self) -> dict[str, float]:
        bank, queries = (torch.cat([flat_pixels(views) for views, _ in c]) for c in self.centers)
        pairs = flat_pixels(self.pairs.flatten(0, 1)).unflatten(0, (-1, 2))
        return self._measures(bank, queries, pairs, None)

    @torch.no_grad()
    def network(self, network: Network) -> dict[str, float]:
        cpu = torch.device("cpu")
        bank, queries = (extract(network.backbone, centers, cpu)[0] for centers in self.centers)
        flat = self.pairs.flatten(0, 1)
        views = extract(network.backbone, [(flat, np.arange(len(flat)))], cpu)[0]
        return self._measures(
            bank, queries, views.unflatten(0, (-1, 2)), network.projector(views).unflatten(0, (-1, 2))
        )

    def _measures(self, bank: Tensor, queries: Tensor, views: Tensor, z: Tensor | None) -> dict[str, float]:
        found = {"knn": knn_accuracy(bank, self.labels[0], queries, self.labels[1], self.classes, k=20)}
        found["probe"] = probe(bank, self.labels[0], queries, self.labels[1])
        for suffix, x in (("", views),) if z is None else (("", views), (" of z", z)):
            found |= {f"{name}{suffix}": value for name, value in unlabeled(x).items()}
        found["rank"] = effective_rank(bank[:2048])
        return found


def unlabeled(views: Tensor) -> dict[str, float]:
    """Return the measures of features (n, 2, D) of two views of each image."""
    centered = views - views.mean(dim=(0, 1))
    return {
        "view retrieval": retrieval(views),
        "view retrieval, centered": retrieval(centered),
        "view retrieval, whitened": retrieval(whitened(views)),
        "RankMe": effective_rank(views[:, 0]),
        "cumulative spectrum": cumulative_spectrum(views[:, 0]),
        "alpha-ReQ": -alpha_req(views[:, 0]),
        "LiDAR": lidar(views),
        "alignment": alignment(views),
        "alignment, centered": alignment(centered),
        "uniformity": -uniformity(views[:, 0]),
        "class-free Fisher ratio": fisher(views),
    }


def whitened(views: Tensor) -> Tensor:
    """Whiten features (n, 2, D) by their covariance, shrunk towards the identity."""
    x = (views - views.mean(dim=(0, 1))).flatten(0, 1).double()
    cov = x.T @ x / len(x)
    cov += 0.01 * cov.diagonal().mean() * torch.eye(len(cov), dtype=torch.double)
    values, vectors = torch.linalg.eigh(cov)
    return (x @ vectors / values.sqrt()).float().unflatten(0, (-1, 2))


def cumulative_spectrum(features: Tensor) -> float:
    """Return the area under the cumulative share of the singular values (Li, Efros & Pathak 2022)."""
    s = torch.linalg.svdvals(features.double())
    return 1 - float((s.cumsum(0) / s.sum()).mean())


def alpha_req(features: Tensor) -> float:
    """Return the exponent of the decay of the covariance's eigenvalues (Agrawal et al. 2022)."""
    values = torch.linalg.svdvals((features - features.mean(0)).double()) ** 2
    values = values[: max(10, min(len(values), 100))].clamp(min=1e-12).log().numpy()
    return float(-np.polyfit(np.log(np.arange(1, len(values) + 1)), values, 1)[0])


def lidar(views: Tensor) -> float:
    """Return the rank of images' differences relative to those of their views (Thilak et al. 2024)."""
    x = views.double()
    means = x.mean(dim=1)
    within = (x - means[:, None]).flatten(0, 1)
    within = within.T @ within / len(within) + 1e-4 * torch.eye(x.shape[2], dtype=torch.double)
    between = means - means.mean(0)
    values, vectors = torch.linalg.eigh(within)
    scaled = between @ vectors / values.sqrt()
    return effective_rank(scaled.T @ scaled)


def alignment(views: Tensor) -> float:
    """Return the mean cosine of the two views of an image (Wang & Isola 2020)."""
    return float(F.cosine_similarity(views[:, 0], views[:, 1], dim=1).mean())


def uniformity(features: Tensor) -> float:
    """Return the logarithm of the mean Gaussian potential between images (Wang & Isola 2020)."""
    x = F.normalize(features, dim=1)
    return float(torch.pdist(x).pow(2).mul(-2).exp().mean().log())


def fisher(views: Tensor) -> float:
    """Return the variance between images over that between views of an image, both of unit vectors."""
    x = F.normalize(views - views.mean(dim=(0, 1)), dim=2)
    means = x.mean(dim=1)
    return float((means.var(dim=0).sum() / (x - means[:, None]).pow(2).sum(2).mean()).log())


def probe(bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor) -> float:
    """Return the accuracy of a ridge classifier on standardized features."""
    mean, std = bank.mean(0), bank.std(0) + 1e-6
    x, q = ((one - mean) / std for one in (bank, queries))
    targets = F.one_hot(labels).float() - F.one_hot(labels).float().mean(0)
    gram = x.T @ x + 0.1 * len(x) * torch.eye(x.shape[1])
    return float(((q @ torch.linalg.solve(gram, x.T @ targets)).argmax(1) == query_labels).double().mean())


def correlations(rows: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """Return each measure's rank correlations, and how often it is right about "better than pixels"."""
    trained = [row for row in rows if row["kind"] == "trained"]
    pixels = {(row["run"]): row for row in rows if row["kind"] == "pixels"}
    sets = sorted({str(row["set"]) for row in trained})
    names = [name for name in trained[0] if name not in ("run", "set", "step", "kind", "knn", "probe")]

    def spearman(chosen: list[dict[str, object]], name: str, target: str) -> float:
        a, b = ([float(row[key]) for row in chosen] for key in (name, target))
        return float(np.corrcoef(ranks(np.array(a)), ranks(np.array(b)))[0, 1])

    table = {}
    for name in names:
        within = [spearman([r for r in trained if r["set"] == one], name, "knn") for one in sets]
        table[name] = {"within": float(np.mean(within)), "across": spearman(trained, name, "knn")}
        table[name]["probe"] = float(
            np.mean([spearman([r for r in trained if r["set"] == one], name, "probe") for one in sets])
        )
        table[name] |= dict(zip(sets, within, strict=True))
        if all(name in row for row in pixels.values()):
            right = [
                (row[name] > pixels[str(row["run"])][name]) == (row["knn"] > pixels[str(row["run"])]["knn"])
                for row in trained
            ]
            table[name]["above pixels"] = float(np.mean(right))
    return table


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def draw(rows: list[dict[str, object]], table: dict[str, dict[str, float]]) -> Figure:
    """Draw kNN accuracy against the four best measures, a color for each set."""
    best = sorted(table, key=lambda name: -table[name]["within"])[:4]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    sets = sorted({str(row["set"]) for row in rows})
    for axes, name in zip(figure.subplots(1, len(best)), best, strict=True):
        for one in sets:
            chosen = [r for r in rows if r["set"] == one and r["kind"] == "trained"]
            axes.plot(
                [r[name] for r in chosen], [100 * float(r["knn"]) for r in chosen], "o", ms=3, label=one
            )
        axes.set_xlabel(f"{name} ({table[name]['within']:.2f})")
        axes.set_ylabel("kNN accuracy")
    axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main()
