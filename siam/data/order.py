"""Which images make which batch: a function of (seed, epoch) and, for a process among several, of its rank.

The global batch of a step is the same however many processes share it: each takes its part of it.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from siam.data.chance import permutation
from siam.settings import Settings

Key = tuple[int, NDArray[np.int64]]
"""An epoch and the indices of one batch's images."""

Position = tuple[int, int]
"""An epoch, and a step counted from its start."""


class Order(Sampler[Key]):
    """Batches of indices from a position to the end of the last epoch, as one process sees them.

    size: images in the set. rank, processes: which equal part of each global batch to take.
    """

    def __init__(
        self, size: int, settings: Settings, start: Position = (0, 0), rank: int = 0, processes: int = 1
    ) -> None:
        self.size, self.settings, self.start = size, settings, start
        self.rank, self.processes = rank, processes
        self.steps = size // settings.batch_size

    def at(self, start: Position) -> "Order":
        """The same order from another position on."""
        return Order(self.size, self.settings, start, self.rank, self.processes)

    def positions(self) -> Iterator[tuple[Position, NDArray[np.int64]]]:
        """Each position and the images there, of this process."""
        first_epoch, first_step = self.start
        for epoch in range(first_epoch, self.settings.epochs):
            batches = self.epoch(epoch)
            for step in range(first_step if epoch == first_epoch else 0, self.steps):
                yield (epoch, step), np.array_split(batches[step], self.processes)[self.rank]

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """All global batches of an epoch: indices (steps, B)."""
        batch = self.settings.batch_size
        order = permutation(self.settings.seed, epoch, self.size)
        return order[: self.steps * batch].reshape(self.steps, batch)

    def __iter__(self) -> Iterator[Key]:
        return ((epoch, indices) for (epoch, _), indices in self.positions())
