"""Measure metrics between epochs, from a single forward pass over a sample of the images."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siam.data.augment import normalize
from siam.data.geometry import CenterCrop, center_crop
from siam.data.images import Images, ImageSets, is_labeled
from siam.data.loader import choose_workers
from siam.data.subset import Subset
from siam.errors import DataError
from siam.measure.features import center_views, extract
from siam.measure.pairs import view_pairs
from siam.metrics import Look, Values, all_metrics, baseline_metrics, due_metrics
from siam.network import Network
from siam.parts.backbone import features_of
from siam.processes.agree import all_gather_object, gather_uneven
from siam.processes.gather import rank, world_size
from siam.runs.bars import OnProgress, running_total
from siam.runs.encoder import Encoder
from siam.settings.pretraining import Settings

RANK_IMAGES = 2048
PAIRS = 512  # images for view retrieval
MIN_IMAGES_FOR_WORKERS = 1000  # reading fewer images is faster than starting worker processes
EVAL_BATCH = 500  # images per forward pass
MAX_SHARDS = 8  # shards or row groups to sample from, since each is read in full
_BASELINES = ("pixel", "untrained")
PIXEL_SIDE = 32  # larger views are downsampled to this size, since 10,000 of them would take gigabytes


def ignore(done: int, of: int) -> None:
    """Discard progress updates."""


@dataclass(frozen=True)
class Measured:
    """The metric values from one measurement of the network."""

    values: Values
    """Metric values by name; None for metrics not due."""
    max_rank: int
    """Upper bound on z's effective rank: the smaller of d and the number of images measured."""


class Monitor:
    """Measures the network on center crops of sampled images, which are decoded only once.

    The bank is a sample of the training images; the queries are a sample of the validation images. Without
    labeled validation images, every fifth image of the bank becomes a query instead. Pairs of augmented
    views of a third sample need no labels. Each rank holds and processes its own share of the samples, but
    has the bank's labels and indices for all ranks.

    bar: creates a progress bar with the given name and returns its callback. crop: the part of the images to
    measure on; default: the center at the size of the views.
    """

    def __init__(
        self,
        sets: ImageSets,
        settings: Settings,
        device: torch.device,
        bf16: bool,
        bar: Callable[[str], OnProgress] = lambda name: ignore,
        crop: CenterCrop | None = None,
    ) -> None:
        self.settings, self.device, self.bf16 = settings, device, bf16
        m, crop = settings.monitor, crop or center_crop(settings.views.size)
        workers = choose_workers(settings.loader.workers, device)
        limit = m.bank if sets.train.labels is not None else min(m.bank, RANK_IMAGES)
        self.bank, own = _sample(sets.train, limit, crop, workers, bar("reading images for metrics"))
        by_rank = all_gather_object(own)
        self.bank_indices = np.concatenate(by_rank)
        self.pairs = view_pairs(Subset(sets.train, _spread(sets.train, PAIRS)), settings)
        self.labels, self.classes = _labels(sets.train, self.bank_indices), len(sets.train.classes)
        self.queries: Tensor | None = None
        self.query_labels: Tensor | None = None
        if self.labels is not None and sets.val is not None and is_labeled(sets.val):
            on_progress = bar("reading validation images")
            self.queries, chosen = _sample(sets.val, m.queries, crop, workers, on_progress)
            self.query_labels = _labels(sets.val, chosen)
        elif self.labels is not None and len(self.bank_indices) >= 10:
            query = torch.arange(len(self.bank_indices)) % 5 == 0
            first = sum(map(len, by_rank[: rank()]))
            mine = query[first : first + len(own)]
            self.queries, self.query_labels = self.bank[mine], self.labels[first : first + len(own)][mine]
            self.bank, self.labels = self.bank[~mine], self.labels[~query]
            self.bank_indices = self.bank_indices[~query.numpy()]

    def measure(
        self, network: Network, epoch: int, last: bool = False, on_progress: OnProgress = ignore
    ) -> Measured:
        """Measure the metrics due at the end of `epoch`. The network's training mode is left unchanged."""
        due = due_metrics(self.settings, epoch, last)
        values: Values = dict.fromkeys(all_metrics())
        look = self.look(network, due, on_progress)
        assert look.z is not None
        return Measured(values | {name: m.measure(look) for name, m in due.items()}, min(look.z.shape))

    def baselines(self, network: Network, on_progress: OnProgress = ignore) -> Values:
        """Measure the baseline metrics, on raw pixels and on the network before training."""
        values: Values = {f"{kind}_{name}": None for name in baseline_metrics() for kind in _BASELINES}
        due = due_metrics(self.settings, epoch=0, last=True)  # all enabled metrics
        metrics = {name: metric for name, metric in baseline_metrics().items() if name in due}
        if self.queries is None:
            metrics = {name: m for name, m in metrics.items() if not getattr(m, "QUERIES", False)}
        if metrics:
            looks = self.look_at_pixels(), self.look(network, metrics, on_progress)
            for kind, look in zip(_BASELINES, looks, strict=True):
                values |= {f"{kind}_{name}": metric.measure(look) for name, metric in metrics.items()}
        return values

    def neighbors(
        self, network: Network, queries: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return positions in the bank: evenly spaced queries (Q,) and their nearest neighbors (Q, count)."""
        features = F.normalize(gather_uneven(self._features(network, self.bank)), dim=1)
        chosen = torch.from_numpy(_evenly(len(features), queries))
        similarity = features[chosen] @ features.T
        similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(count, len(features) - 1), dim=1).indices
        return chosen.numpy(), nearest.numpy()

    def views(self, positions: NDArray[np.int64]) -> Tensor:
        """Return the views at these positions in the bank, uint8 (N, 3, S, S), gathered from all ranks."""
        first = sum(all_gather_object(len(self.bank))[: rank()])
        here = np.flatnonzero((positions >= first) & (positions < first + len(self.bank)))
        found = gather_uneven(self.bank[positions[here] - first])
        return found[np.argsort(np.concatenate(all_gather_object(here)))]

    def look(
        self, network: Network | Encoder, metrics: dict[str, ModuleType], on_progress: OnProgress = ignore
    ) -> Look:
        """Pass the bank, and the queries if a metric needs them, through the network."""
        queries = self.queries if any(getattr(m, "QUERIES", False) for m in metrics.values()) else None
        pairs = self.pairs if any(getattr(m, "PAIRS", False) for m in metrics.values()) else self.pairs[:0]
        total = len(self.bank) + (0 if queries is None else len(queries)) + 2 * len(pairs)
        count = running_total(on_progress, total)
        features = gather_uneven(self._features(network, self.bank, count))  # (N, D)
        query_features = None if queries is None else self._features(network, queries, count)
        pair_features = gather_uneven(self._features(network, pairs.flatten(0, 1), count))  # (2 n, D)
        # Evenly spaced: the first images of a dataset may all belong to one class.
        sample = features[_evenly(len(features), RANK_IMAGES)]
        z = None if network.projector is None else self._project(network.projector, sample)
        return self._as_look(features, sample, z, query_features, pair_features)

    @torch.no_grad()
    def _project(self, projector: nn.Module, sample: Tensor) -> Tensor:
        """Return the projections (n, d) of features (n, D)."""
        training = projector.training
        projector.eval()
        z: Tensor = projector(sample.to(self.device)).float().cpu()
        projector.train(training)
        return z

    def look_at_pixels(self) -> Look:
        """Return a Look whose features are the normalized pixels."""
        queries = None if self.queries is None else flat_pixels(self.queries)
        bank = gather_uneven(flat_pixels(self.bank))
        sample = bank[_evenly(len(bank), RANK_IMAGES)]
        pairs = gather_uneven(flat_pixels(self.pairs.flatten(0, 1)))
        return self._as_look(bank, sample, None, queries, pairs)

    def _as_look(
        self, features: Tensor, sample: Tensor, z: Tensor | None, queries: Tensor | None, pairs: Tensor
    ) -> Look:
        views = pairs.view(-1, 2, pairs.shape[1]) if len(pairs) else None
        labels = (self.labels, self.classes, queries, self.query_labels)
        return Look(self.settings.monitor, features, sample, z, *labels, views)

    def _features(
        self, network: Network | Encoder, views: Tensor, count: Callable[[int], None] = lambda count: None
    ) -> Tensor:
        """Return the features (n, D) of this rank's views."""
        if not len(views):
            return torch.empty(0, features_of(network.backbone))
        starts = range(0, len(views), EVAL_BATCH)
        batches = ((views[i : i + EVAL_BATCH], np.arange(len(views))[i : i + EVAL_BATCH]) for i in starts)
        return extract(network.backbone, batches, self.device, self.bf16, count)[0]


def _sample(
    images: Images, limit: int, crop: CenterCrop, workers: int, on_progress: OnProgress
) -> tuple[Tensor, NDArray[np.int64]]:
    """Sample at most `limit` images, and return center crops, uint8 (N, 3, S, S), and image indices (N,).

    Each rank reads and returns its own share. Raises DataError if no image can be read.
    """
    if images.stacked() is not None or min(limit, len(images)) < MIN_IMAGES_FOR_WORKERS:
        workers = 0  # nothing to decode, or too few images
    own = np.array_split(_spread(images, limit), world_size())[rank()]
    count, read = running_total(on_progress, len(own)), []
    for views_read in center_views(images, crop, own, workers=workers):
        read.append(views_read)
        count(len(views_read[1]))
    if not read and len(own):
        raise DataError(f"none of the {len(own)} images sampled from {images.name} can be read")
    size = crop.size
    views = [torch.empty(0, 3, size, size, dtype=torch.uint8), *(views for views, _ in read)]
    return torch.cat(views), np.concatenate([own[:0], *(which for _, which in read)])


def _spread(images: Images, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` image indices, evenly spaced across the dataset or a few of its shards."""
    groups = images.groups
    if groups is None or len(groups) - 1 <= MAX_SHARDS:
        return _evenly(len(images), limit)
    files = _evenly(len(groups) - 1, MAX_SHARDS)
    within = np.concatenate([np.arange(groups[file], groups[file + 1]) for file in files])
    return within[_evenly(len(within), limit)]


def _evenly(size: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` evenly spaced integers in [0, size)."""
    return np.unique(np.linspace(0, size - 1, min(limit, size)).astype(np.int64))


def flat_pixels(views: Tensor) -> Tensor:
    """Downsample, normalize and flatten views: uint8 (N, 3, S, S) -> (N, 3 s s), where s is at most 32."""
    if views.shape[2] > PIXEL_SIDE:
        batches = (batch.float() for batch in torch.split(views, EVAL_BATCH))
        views = torch.cat([F.adaptive_avg_pool2d(batch, PIXEL_SIDE) for batch in batches])
    return normalize(views.float() / 255).flatten(1)


def _labels(images: Images, indices: NDArray[np.int64]) -> Tensor | None:
    return None if images.labels is None else torch.from_numpy(images.labels[indices])
