"""Shuffle images into batches; the order depends only on the seed and the epoch.

A global batch does not depend on the number of processes; each process loads an equal
share of it.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from siam.data.random import generator, permutation
from siam.settings.pretraining import Settings
from siam.settings.schedule import Schedule

Key = tuple[int, int, NDArray[np.int64]]
"""Epoch, step within the epoch, and indices of the batch's images."""

Position = tuple[int, int]
"""Epoch and step within the epoch."""


class Order(Sampler[Key]):
    """Yields the keys of one rank's batches, from `start` to the end of the run.

    size: number of images in the dataset. processes: number of ranks, among which each
    global batch is split evenly. groups: see `Images.groups`. The last epoch is
    incomplete if `settings.epochs` is fractional. If the run's length depends on time
    (`settings.time_limit`), there is no end.
    """

    def __init__(
        self,
        size: int,
        settings: Settings,
        start: Position = (0, 0),
        rank: int = 0,
        processes: int = 1,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.size, self.settings, self.start = size, settings, start
        self.rank, self.processes, self.groups = rank, processes, groups
        self.steps = size // settings.batch_size
        self.total_steps = Schedule(self.steps, settings.epochs).total_steps

    def at(self, start: Position) -> "Order":
        """Return a copy of this order that begins at `start`.

        A step past the end of an epoch means the beginning of the next epoch.
        """
        return Order(self.size, self.settings, start, self.rank, self.processes, self.groups)

    def after(self, count: int) -> "Order":
        """Return a copy of this order without its first `count` keys."""
        epoch, step = self.start
        return self.at(divmod(epoch * self.steps + step + count, self.steps))

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the image indices of an epoch's global batches (steps, B)."""
        batch, seed = self.settings.batch_size, self.settings.seed
        if self.groups is not None:
            return grouped_order(seed, epoch, self.groups, batch)
        order = permutation(seed, epoch, self.size)
        return order[: self.steps * batch].reshape(self.steps, batch)

    def __iter__(self) -> Iterator[Key]:
        first_epoch, first_step = self.start
        end = math.inf if self.settings.time_limit else self.total_steps
        for epoch in itertools.count(first_epoch):
            batches = self.epoch(epoch)
            for step in range(first_step if epoch == first_epoch else 0, self.steps):
                if epoch * self.steps + step >= end:
                    return
                yield epoch, step, np.array_split(batches[step], self.processes)[self.rank]


_LANES, _OPEN = 16, 2


def grouped_order(seed: int, epoch: int, groups: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Return an epoch's image indices (steps, B), visiting only a few groups at a time.

    groups: index of each group's first image, followed by N: (G + 1,). The groups
    (shards or row groups) are shuffled and dealt to up to 16 lanes. Each lane visits
    its groups two at a time, shuffling the images of both together. A batch has the
    same number of images from each lane, in lane order, so that different ranks read
    different groups. Surplus images from long lanes fill up short lanes.
    """
    count = len(groups) - 1
    lanes = max(n for n in range(1, min(_LANES, count, batch) + 1) if batch % n == 0)
    shuffled = permutation(seed, epoch, count)
    rng = generator(seed, epoch + 2**32)
    dealt = []
    for lane in range(lanes):
        own = shuffled[lane::lanes]
        windows = [own[at : at + _OPEN] for at in range(0, len(own), _OPEN)]
        parts = [np.concatenate([np.arange(groups[g], groups[g + 1]) for g in window]) for window in windows]
        dealt.append(np.concatenate([rng.permutation(part) for part in parts]))
    per_lane = batch // lanes
    steps = int(groups[-1]) // batch
    length = steps * per_lane  # number of images in each lane
    spare = np.concatenate([lane[length:] for lane in dealt])
    columns: list[NDArray[np.int64]] = []
    for own in dealt:
        missing = max(0, length - len(own))
        filled, spare = np.concatenate([own[:length], spare[:missing]]), spare[missing:]
        columns.append(filled.reshape(steps, per_lane))
    return np.concatenate(columns, axis=1)
