"""What is measured between epochs: kNN where labels exist, effective ranks where they do not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.data.images import Images, ImageSets
from siam.data.loader import default_workers
from siam.data.photometry import normalize
from siam.data.sources.arrays import ArrayImages
from siam.errors import DataError
from siam.measure.collapse import effective_rank
from siam.measure.features import center_views, extract
from siam.measure.knn import knn_accuracy
from siam.network import Network
from siam.parts.backbone import features_of
from siam.processes.agree import all_gather_object, gather_uneven
from siam.processes.gather import rank, world_size
from siam.settings.pretraining import Settings

RANK_IMAGES = 2048
MIN_IMAGES_FOR_WORKERS = 1000  # images: reading fewer takes no longer than starting processes
EVAL_BATCH = 500  # images that pass the network in one batch
MAX_SHARDS = 8  # shards or row groups, of those that are read whole
PIXEL_SIDE = 32  # pixels: larger views are averaged down to it, or 10,000 of them would take gigabytes

Tell = Callable[[int, int], None]
"""Takes how many images are done, and of how many."""


def _nobody(done: int, of: int) -> None:
    """Is told."""


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

    def __init__(
        self,
        sets: ImageSets,
        settings: Settings,
        device: torch.device,
        bf16: bool,
        bar: Callable[[str], Tell] = lambda what: _nobody,
    ) -> None:
        """bar: called with what is read, gives what is told how many images of it are."""
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
            tell = bar("reading images to validate")
            self.queries, chosen = _sample(sets.val, m.queries, size, workers, tell)
            self.query_labels = _labels(sets.val, chosen)
        elif self.labels is not None and len(self.bank_indices) >= 10:
            query = torch.arange(len(self.bank_indices)) % 5 == 0
            first = sum(map(len, of_each[: rank()]))
            mine = query[first : first + len(own)]
            self.queries, self.query_labels = self.bank[mine], self.labels[first : first + len(own)][mine]
            self.bank, self.labels = self.bank[~mine], self.labels[~query]
            self.bank_indices = self.bank_indices[~query.numpy()]

    def measure(self, network: Network, knn: bool = True, tell: Tell = _nobody) -> Measured:
        """Ranks, and kNN if asked for, of the network as it is. Its mode is left as it was."""
        mine, queries = self._features(network, self.bank, self.queries if knn else None, tell)
        bank = gather_uneven(mine)
        some = bank[_evenly(len(bank), RANK_IMAGES)]  # of every part of the set: its first may be one class
        training = network.training
        network.projector.eval()
        with torch.no_grad():
            z = network.projector(some.to(self.device)).float().cpu()
        network.projector.train(training)
        return Measured(effective_rank(some), effective_rank(z), min(z.shape), self._knn(bank, queries))

    def knn(self, network: Network, tell: Tell = _nobody) -> float | None:
        """kNN alone; without labels nothing is done."""
        if self.queries is None:
            return None
        mine, queries = self._features(network, self.bank, self.queries, tell)
        return self._knn(gather_uneven(mine), queries)

    def raw_pixels(self) -> float | None:
        """kNN on the normalised pixels themselves: what the network has to beat."""
        if self.queries is None:
            return None
        return self._knn(gather_uneven(_flat_pixels(self.bank)), _flat_pixels(self.queries))

    def neighbours(
        self, network: Network, queries: int, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in the bank, evenly spread (queries,), and of their nearest others (queries, count)."""
        features = F.normalize(gather_uneven(self._features(network, self.bank)[0]), dim=1)
        chosen = torch.from_numpy(_evenly(len(features), queries))
        similarity = features[chosen] @ features.T
        similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(count, len(features) - 1), dim=1).indices
        return chosen.numpy(), nearest.numpy()

    def views(self, positions: NDArray[np.int64]) -> Tensor:
        """The pixels at some positions of the bank, uint8 (N, 3, S, S), whichever process holds them."""
        first = sum(all_gather_object(len(self.bank))[: rank()])
        here = np.flatnonzero((positions >= first) & (positions < first + len(self.bank)))
        found = gather_uneven(self.bank[positions[here] - first])
        return found[np.argsort(np.concatenate(all_gather_object(here)))]

    def _features(
        self, network: Network, bank: Tensor, queries: Tensor | None = None, tell: Tell = _nobody
    ) -> tuple[Tensor, Tensor | None]:
        """Of this process's own part of the bank, and of the queries."""
        told = _adding_up(tell, len(bank) + (0 if queries is None else len(queries)))

        def features(views: Tensor) -> Tensor:
            if not len(views):
                return torch.empty(0, features_of(network.backbone))
            starts = range(0, len(views), EVAL_BATCH)
            batches = ((views[i : i + EVAL_BATCH], np.arange(len(views))[i : i + EVAL_BATCH]) for i in starts)
            return extract(network.backbone, batches, self.device, self.bf16, told)[0]

        return features(bank), None if queries is None else features(queries)

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
        counts = all_gather_object((round(share * len(queries)), len(queries)))
        return sum(right for right, _ in counts) / sum(asked for _, asked in counts)


def _adding_up(tell: Tell, of: int) -> Callable[[int], None]:
    """What is told how many more images are done, and tells how many that makes."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        tell(done, of)

    return more


def _sample(
    images: Images, most: int, size: int, workers: int, tell: Tell
) -> tuple[Tensor, NDArray[np.int64]]:
    """Centre views uint8 (N, 3, S, S) of at most `most` images, evenly spread over the set, and which.

    Of several processes each reads its part of them. Raises DataError when none can be read.
    """
    if isinstance(images, ArrayImages) or min(most, len(images)) < MIN_IMAGES_FOR_WORKERS:
        workers = 0
    own = np.array_split(_spread(images, most), world_size())[rank()]
    told, read = _adding_up(tell, len(own)), []
    for views_read in center_views(images, size, own, workers=workers):
        read.append(views_read)
        told(len(views_read[1]))
    if not read and len(own):
        raise DataError(f"none of {len(own)} images of {images.name} can be read")
    views = [torch.empty(0, 3, size, size, dtype=torch.uint8), *(views for views, _ in read)]
    return torch.cat(views), np.concatenate([own[:0], *(which for _, which in read)])


def _spread(images: Images, most: int) -> NDArray[np.int64]:
    """At most `most` images, evenly spread over the set; over some files of it where each is read whole."""
    groups: NDArray[np.int64] | None = getattr(images, "groups", None)
    if groups is None or len(groups) - 1 <= MAX_SHARDS:
        return _evenly(len(images), most)
    files = _evenly(len(groups) - 1, MAX_SHARDS)
    within = np.concatenate([np.arange(groups[file], groups[file + 1]) for file in files])
    return within[_evenly(len(within), most)]


def _evenly(size: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(most, size)).astype(np.int64))


def _flat_pixels(views: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 s s), s at most 32, each channel normalised as the network sees it."""
    if views.shape[2] > PIXEL_SIDE:
        batches = (batch.float() for batch in torch.split(views, 500))
        views = torch.cat([F.adaptive_avg_pool2d(batch, PIXEL_SIDE) for batch in batches])
    return normalize(views.float() / 255).flatten(1)


def _labels(images: Images, indices: NDArray[np.int64]) -> Tensor | None:
    return None if images.labels is None else torch.from_numpy(images.labels[indices])
