"""Which images make which batch: a function of (seed, epoch) and, for a process among several, of its rank.

The global batch of a step is the same however many processes share it: each takes its part of it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from siam.data.random import permutation
from siam.settings.pretraining import Settings

Key = tuple[int, NDArray[np.int64]]
"""An epoch and the indices of one batch's images."""

Position = tuple[int, int]
"""An epoch, and a step counted from its start."""


class Order(Sampler[Key]):
    """Batches of indices from a position to the end of the last epoch, as one process sees them.

    size: images in the set. rank, processes: which equal part of each global batch to take. groups: where
    each file of the set begins and the last one ends, if few of them should be visited at a time.
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

    def at(self, start: Position) -> "Order":
        """The same order from another position on."""
        return Order(self.size, self.settings, start, self.rank, self.processes, self.groups)

    def positions(self) -> Iterator[tuple[Position, NDArray[np.int64]]]:
        """Each position and the images there, of this process."""
        first_epoch, first_step = self.start
        for epoch in range(first_epoch, self.settings.epochs):
            batches = self.epoch(epoch)
            for step in range(first_step if epoch == first_epoch else 0, self.steps):
                yield (epoch, step), np.array_split(batches[step], self.processes)[self.rank]

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """All global batches of an epoch: indices (steps, B)."""
        batch, seed = self.settings.batch_size, self.settings.seed
        if self.groups is not None:
            return grouped_order(seed, epoch, self.groups, batch)
        order = permutation(seed, epoch, self.size)
        return order[: self.steps * batch].reshape(self.steps, batch)

    def __iter__(self) -> Iterator[Key]:
        return ((epoch, indices) for (epoch, _), indices in self.positions())


_LANES, _OPEN = 16, 2


def grouped_order(seed: int, epoch: int, groups: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """Batches that visit few groups at a time: indices (steps, B).

    groups: where each begins, and the end (G+1). Groups (shards, row groups) are shuffled and dealt to up to
    16 lanes; a lane goes through its groups two at a time, in random order within these. A batch takes as
    many images from each lane, lane by lane, so that of several processes each reads the groups of its own
    lanes. What the longer lanes have too much, the shorter ones take over at their ends.
    """
    count = len(groups) - 1
    lanes = max(n for n in range(1, min(_LANES, count, batch) + 1) if batch % n == 0)
    shuffled = permutation(seed, epoch, count)
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch + 2**32]))
    dealt = []
    for lane in range(lanes):
        own = shuffled[lane::lanes]
        windows = [own[at : at + _OPEN] for at in range(0, len(own), _OPEN)]
        parts = [np.concatenate([np.arange(groups[g], groups[g + 1]) for g in window]) for window in windows]
        dealt.append(np.concatenate([rng.permutation(part) for part in parts]))
    share = batch // lanes
    steps = int(groups[-1]) // batch
    length = steps * share  # of each lane
    spare = np.concatenate([lane[length:] for lane in dealt])
    each: list[NDArray[np.int64]] = []
    for own in dealt:
        missing = max(0, length - len(own))
        filled, spare = np.concatenate([own[:length], spare[:missing]]), spare[missing:]
        each.append(filled.reshape(steps, share))
    return np.concatenate(each, axis=1)
