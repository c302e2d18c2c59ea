"""What is measured between epochs: kNN where labels exist, effective ranks where they do not."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.data.arrays import ArrayImages
from siam.data.images import Images, ImageSets
from siam.data.loader import default_workers
from siam.data.photometry import normalise
from siam.errors import DataError
from siam.evaluate.features import centre_views, extract
from siam.evaluate.knn import knn_accuracy
from siam.network import Network
from siam.parts.backbone import features_of
from siam.parts.gather import rank, world_size
from siam.settings import Settings
from siam.train.collapse import effective_rank
from siam.train.distributed import from_all, join

_RANK_IMAGES = 2048
_WORTH_WORKERS = 1000  # images: reading fewer takes no longer than starting processes
_FILES = 8  # shards or row groups, of those that are read whole
_RAW_SIDE = 32  # pixels: larger views are averaged down to it, or 10,000 of them would take gigabytes


@dataclass(frozen=True)
class Measured:
    """One look at the network."""

    rank: float
    """Effective rank of the backbone's features, at most D."""
    rank_z: float
    """Effective rank of the projections."""
    most: int
    """What that could be: d, or the number of images looked at."""
    knn: float | None
    """Share of the queries that the neighbours name rightly; None without labels, or when not asked for."""


class Monitor:
    """Holds centre views of a sample of the training and validation images, decoded once.

    The bank is the training sample, the queries are validation images; without a validation set every fifth
    image of the sample is a query, and no part of the bank. Of several processes each holds, and passes
    through the network, an equal part of both; labels and indices are those of all.
    """

    def __init__(self, sets: ImageSets, settings: Settings, device: torch.device, bf16: bool) -> None:
        self.settings, self.device, self.bf16 = settings, device, bf16
        m, size = settings.monitor, settings.views.size
        workers = settings.loader.workers if settings.loader.workers >= 0 else default_workers(device)
        most = m.bank if sets.train.labels is not None else min(m.bank, _RANK_IMAGES)
        self.bank, own = _sample(sets.train, most, size, workers)
        of_each = from_all(own)
        self.bank_indices = np.concatenate(of_each)
        self.labels, self.classes = _labels(sets.train, self.bank_indices), len(sets.train.classes)
        self.queries: Tensor | None = None
        self.query_labels: Tensor | None = None
        if self.labels is not None and sets.val is not None:
            self.queries, chosen = _sample(sets.val, m.queries, size, workers)
            self.query_labels = _labels(sets.val, chosen)
        elif self.labels is not None and len(self.bank_indices) >= 10:
            query = torch.arange(len(self.bank_indices)) % 5 == 0
            first = sum(map(len, of_each[: rank()]))
            mine = query[first : first + len(own)]
            self.queries, self.query_labels = self.bank[mine], self.labels[first : first + len(own)][mine]
            self.bank, self.labels = self.bank[~mine], self.labels[~query]
            self.bank_indices = self.bank_indices[~query.numpy()]

    def measure(self, network: Network, knn: bool = True) -> Measured:
        """Ranks, and kNN if asked for, of the network as it is. Its mode is left as it was."""
        bank = join(self._features(network, self.bank))
        some = bank[_evenly(len(bank), _RANK_IMAGES)]  # of every part of the set: its first may be one class
        training = network.training
        network.projector.eval()
        with torch.no_grad():
            z = network.projector(some.to(self.device)).float().cpu()
        network.projector.train(training)
        queries = self._features(network, self.queries) if knn and self.queries is not None else None
        return Measured(effective_rank(some), effective_rank(z), min(z.shape), self._knn(bank, queries))

    def knn(self, network: Network) -> float | None:
        """kNN alone; without labels nothing is done."""
        if self.queries is None:
            return None
        return self._knn(join(self._features(network, self.bank)), self._features(network, self.queries))

    def raw_pixels(self) -> float | None:
        """kNN on the normalised pixels themselves: what the network has to beat."""
        if self.queries is None:
            return None
        return self._knn(join(_flat_pixels(self.bank)), _flat_pixels(self.queries))

    def neighbours(
        self, network: Network, queries: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the bank, evenly spread (queries,), and of their nearest others (queries, count)."""
        features = F.normalize(join(self._features(network, self.bank)), dim=1)
        chosen = torch.from_numpy(_evenly(len(features), queries))
        similarity = features[chosen] @ features.T
        similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(count, len(features) - 1), dim=1).indices
        return chosen.numpy(), nearest.numpy()

    def views(self, positions: NDArray[np.int64]) -> Tensor:
        """The pixels at some positions of the bank, uint8 (N, 3, S, S), whichever process holds them."""
        first = sum(from_all(len(self.bank))[: rank()])
        here = np.flatnonzero((positions >= first) & (positions < first + len(self.bank)))
        found = join(self.bank[positions[here] - first])
        return found[np.argsort(np.concatenate(from_all(here)))]

    def _features(self, network: Network, views: Tensor) -> Tensor:
        """Of this process's own part."""
        if not len(views):
            return torch.empty(0, features_of(network.backbone))
        step = 500
        batches = (
            (views[i : i + step], np.arange(i, min(i + step, len(views)))) for i in range(0, len(views), step)
        )
        return extract(network.backbone, batches, self.device, self.bf16)[0]

    def _knn(self, bank: Tensor, queries: Tensor | None) -> float | None:
        """Of the whole bank, and this process's queries: the share over those of all processes."""
        m = self.settings.monitor
        if queries is None or self.labels is None or self.query_labels is None or m.knn_every == 0:
            return None
        share = 0.0
        if len(queries):
            share = knn_accuracy(
                bank, self.labels, queries, self.query_labels, self.classes, m.knn_k, m.knn_temperature
            )
        counts = from_all((round(share * len(queries)), len(queries)))
        return sum(right for right, _ in counts) / sum(asked for _, asked in counts)


def _sample(images: Images, most: int, size: int, workers: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Centre views uint8 (N, 3, S, S) of at most `most` images, evenly spread over the set, and which.

    Of several processes each reads its part of them. Raises DataError when none can be read.
    """
    if isinstance(images, ArrayImages) or min(most, len(images)) < _WORTH_WORKERS:
        workers = 0
    own = np.array_split(_spread(images, most), world_size())[rank()]
    read = list(centre_views(images, size, own, workers=workers))
    if not read and len(own):
        raise DataError(f"none of {len(own)} images of {images.name} can be read")
    views = [torch.empty(0, 3, size, size, dtype=torch.uint8), *(views for views, _ in read)]
    return torch.cat(views), np.concatenate([own[:0], *(which for _, which in read)])


def _spread(images: Images, most: int) -> NDArray[np.int64]:
    """At most `most` images, evenly spread over the set; over some files of it where each is read whole."""
    groups: NDArray[np.int64] | None = getattr(images, "groups", None)
    if groups is None or len(groups) - 1 <= _FILES:
        return _evenly(len(images), most)
    files = _evenly(len(groups) - 1, _FILES)
    within = np.concatenate([np.arange(groups[file], groups[file + 1]) for file in files])
    return within[_evenly(len(within), most)]


def _evenly(size: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(most, size)).astype(np.int64))


def _flat_pixels(views: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 s s), s at most 32, each channel normalised as the network sees it."""
    if views.shape[2] > _RAW_SIDE:
        batches = (batch.float() for batch in torch.split(views, 500))
        views = torch.cat([F.adaptive_avg_pool2d(batch, _RAW_SIDE) for batch in batches])
    return normalise(views.float() / 255).flatten(1)


def _labels(images: Images, indices: NDArray[np.int64]) -> Tensor | None:
    return None if images.labels is None else torch.from_numpy(images.labels[indices])
