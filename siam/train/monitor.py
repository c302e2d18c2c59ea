"""Between epochs: one pass of the network over a sample of the images, and every metric on what it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.data.augment import normalize
from siam.data.images import Images, ImageSets
from siam.data.loader import default_workers
from siam.errors import DataError
from siam.measure.features import center_views, extract
from siam.metrics import Look, Values, all_metrics, baseline_metrics, due_metrics
from siam.network import Network
from siam.parts.backbone import features_of
from siam.processes.agree import all_gather_object, gather_uneven
from siam.processes.gather import rank, world_size
from siam.runs.bars import OnProgress, running_total
from siam.settings.pretraining import Settings

RANK_IMAGES = 2048
MIN_IMAGES_FOR_WORKERS = 1000  # reading fewer takes no longer than starting processes
EVAL_BATCH = 500  # images that pass the network in one batch
MAX_SHARDS = 8  # shards or row groups, of those that are read whole
PIXEL_SIDE = 32  # larger views are averaged down to it, or 10,000 of them would take gigabytes


def ignore(done: int, of: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Measured:
    """What one look at the network gave."""

    values: Values
    """Of all metrics; None for those that were not due."""
    max_rank: int
    """The largest effective rank that z could have: d, or the number of images looked at."""


class Monitor:
    """Hold center views of a sample of the training and validation images, decoded once.

    The bank is the training sample, the queries are validation images; without a validation set every fifth
    image of the sample is a query and not part of the bank. On several ranks each holds, and passes through
    the network, an equal part of both; labels and indices are those of all.
    """

    def __init__(
        self,
        sets: ImageSets,
        settings: Settings,
        device: torch.device,
        bf16: bool,
        bar: Callable[[str], OnProgress] = lambda name: ignore,
    ) -> None:
        """bar: takes what is read, returns its progress callback."""
        self.settings, self.device, self.bf16 = settings, device, bf16
        m, size = settings.monitor, settings.views.size
        workers = settings.loader.workers if settings.loader.workers >= 0 else default_workers(device)
        most = m.bank if sets.train.labels is not None else min(m.bank, RANK_IMAGES)
        self.bank, own = _sample(sets.train, most, size, workers, bar("reading images to measure on"))
        of_each = all_gather_object(own)
        self.bank_indices = np.concatenate(of_each)
        self.labels, self.classes = _labels(sets.train, self.bank_indices), len(sets.train.classes)
        self.queries: Tensor | None = None
        self.query_labels: Tensor | None = None
        if self.labels is not None and sets.val is not None:
            on_progress = bar("reading images to validate")
            self.queries, chosen = _sample(sets.val, m.queries, size, workers, on_progress)
            self.query_labels = _labels(sets.val, chosen)
        elif self.labels is not None and len(self.bank_indices) >= 10:
            query = torch.arange(len(self.bank_indices)) % 5 == 0
            first = sum(map(len, of_each[: rank()]))
            mine = query[first : first + len(own)]
            self.queries, self.query_labels = self.bank[mine], self.labels[first : first + len(own)][mine]
            self.bank, self.labels = self.bank[~mine], self.labels[~query]
            self.bank_indices = self.bank_indices[~query.numpy()]

    def measure(self, network: Network, epoch: int, on_progress: OnProgress = ignore) -> Measured:
        """Measure the metrics that are due at the end of `epoch`. The network's mode is left as it was."""
        due = due_metrics(self.settings, epoch)
        look = self._look(network, due, on_progress)
        assert look.z is not None
        values: Values = dict.fromkeys(all_metrics())
        return Measured(values | {name: m.measure(look) for name, m in due.items()}, min(look.z.shape))

    def baselines(self, network: Network, on_progress: OnProgress = ignore) -> Values:
        """Measure what the trained network has to beat: raw pixels and `network` as initialized."""
        metrics = baseline_metrics()
        if self.queries is None or not metrics:
            return {f"{kind}_{name}": None for name in metrics for kind in ("pixel", "untrained")}
        pixels, untrained = self._look_at_pixels(), self._look(network, metrics, on_progress)
        return {
            f"{kind}_{name}": metric.measure(look)
            for name, metric in metrics.items()
            for kind, look in (("pixel", pixels), ("untrained", untrained))
        }

    def neighbors(
        self, network: Network, queries: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return evenly spread positions in the bank (queries,), and their neighbors' (queries, count)."""
        features = F.normalize(gather_uneven(self._features(network, self.bank)), dim=1)
        chosen = torch.from_numpy(_evenly(len(features), queries))
        similarity = features[chosen] @ features.T
        similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(count, len(features) - 1), dim=1).indices
        return chosen.numpy(), nearest.numpy()

    def views(self, positions: NDArray[np.int64]) -> Tensor:
        """Return the pixels at some positions of the bank, uint8 (N, 3, S, S), whichever rank holds them."""
        first = sum(all_gather_object(len(self.bank))[: rank()])
        here = np.flatnonzero((positions >= first) & (positions < first + len(self.bank)))
        found = gather_uneven(self.bank[positions[here] - first])
        return found[np.argsort(np.concatenate(all_gather_object(here)))]

    def _look(self, network: Network, metrics: dict[str, ModuleType], on_progress: OnProgress) -> Look:
        """Pass the bank through the network, and the queries if a metric needs them."""
        queries = self.queries if any(getattr(m, "QUERIES", False) for m in metrics.values()) else None
        count = running_total(on_progress, len(self.bank) + (0 if queries is None else len(queries)))
        features = gather_uneven(self._features(network, self.bank, count))  # (N, D)
        query_features = None if queries is None else self._features(network, queries, count)
        sample = features[
            _evenly(len(features), RANK_IMAGES)
        ]  # of every part of the set: its first may be one class
        training = network.training
        network.projector.eval()
        with torch.no_grad():
            z = network.projector(sample.to(self.device)).float().cpu()  # (n, d)
        network.projector.train(training)
        return self._as_look(features, sample, z, query_features)

    def _look_at_pixels(self) -> Look:
        """Take the normalized pixels themselves for features."""
        assert self.queries is not None
        bank = gather_uneven(_flat_pixels(self.bank))
        sample = bank[_evenly(len(bank), RANK_IMAGES)]
        return self._as_look(bank, sample, None, _flat_pixels(self.queries))

    def _as_look(self, features: Tensor, sample: Tensor, z: Tensor | None, queries: Tensor | None) -> Look:
        labels = (self.labels, self.classes)
        return Look(self.settings.monitor, features, sample, z, *labels, queries, self.query_labels)

    def _features(
        self, network: Network, views: Tensor, count: Callable[[int], None] = lambda more: None
    ) -> Tensor:
        """Return this rank's features (n, D) of its views."""
        if not len(views):
            return torch.empty(0, features_of(network.backbone))
        starts = range(0, len(views), EVAL_BATCH)
        batches = ((views[i : i + EVAL_BATCH], np.arange(len(views))[i : i + EVAL_BATCH]) for i in starts)
        return extract(network.backbone, batches, self.device, self.bf16, count)[0]


def _sample(
    images: Images, most: int, size: int, workers: int, on_progress: OnProgress
) -> tuple[Tensor, NDArray[np.int64]]:
    """Read center views uint8 (N, 3, S, S) of at most `most` images, evenly spread over the set, and which.

    On several ranks each reads its part of them. Raises DataError if none can be read.
    """
    if images.stacked() is not None or min(most, len(images)) < MIN_IMAGES_FOR_WORKERS:
        workers = 0  # nothing to decode, or too little
    own = np.array_split(_spread(images, most), world_size())[rank()]
    count, read = running_total(on_progress, len(own)), []
    for views_read in center_views(images, size, own, workers=workers):
        read.append(views_read)
        count(len(views_read[1]))
    if not read and len(own):
        raise DataError(f"none of {len(own)} images of {images.name} can be read")
    views = [torch.empty(0, 3, size, size, dtype=torch.uint8), *(views for views, _ in read)]
    return torch.cat(views), np.concatenate([own[:0], *(which for _, which in read)])


def _spread(images: Images, most: int) -> NDArray[np.int64]:
    """Choose at most `most` images, evenly spread over the set, or over a few of its files (groups)."""
    groups = images.groups
    if groups is None or len(groups) - 1 <= MAX_SHARDS:
        return _evenly(len(images), most)
    files = _evenly(len(groups) - 1, MAX_SHARDS)
    within = np.concatenate([np.arange(groups[file], groups[file + 1]) for file in files])
    return within[_evenly(len(within), most)]


def _evenly(size: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(most, size)).astype(np.int64))


def _flat_pixels(views: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 s s), s at most 32, each channel normalized as the network sees it."""
    if views.shape[2] > PIXEL_SIDE:
        batches = (batch.float() for batch in torch.split(views, EVAL_BATCH))
        views = torch.cat([F.adaptive_avg_pool2d(batch, PIXEL_SIDE) for batch in batches])
    return normalize(views.float() / 255).flatten(1)


def _labels(images: Images, indices: NDArray[np.int64]) -> Tensor | None:
    return None if images.labels is None else torch.from_numpy(images.labels[indices])
