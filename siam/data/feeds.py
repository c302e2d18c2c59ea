"""Feeds yield batches of views on the device, in a given order.

`WorkerFeed` decodes and crops images in worker processes and applies color augmentation
on the device. `CachedFeed` keeps a dataset of small images on the device as uint8 and
crops them there as well.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.augment import DRAWS, Augment
from siam.data.geometry import crop_resize
from siam.data.images import Images
from siam.data.order import Order, Position
from siam.data.random import COLOR, counter_uniform
from siam.data.unreadable import Unreadable
from siam.data.views import Sample, draw_crops, view_batches
from siam.data.workers import batches_of
from siam.errors import DataError, RunError
from siam.settings.pretraining import Settings

_PREFETCH = 4  # batches that each worker prepares in advance


@dataclass(frozen=True)
class Batch:
    """This process's share of the global batch for one training step."""

    epoch: int
    step: int
    """Step within the epoch."""
    views: tuple[Tensor, ...]
    """One normalized float tensor (B, 3, S, S) per view, on the device."""
    indices: NDArray[np.int64]
    """Index of each image in the dataset (B,)."""
    unreadable: Unreadable
    """Images that could not be read and were replaced with others: path -> reason."""


class Feed(Protocol):
    """Interface of the feeds: `batches(order)` yields a batch for each key."""

    def batches(self, order: Order) -> Iterator[Batch]: ...


class CachedFeed:
    """Crops and augments images of a dataset that is cached on the device."""

    def __init__(self, pixels: Tensor, settings: Settings, count: int, device: torch.device) -> None:
        """Create a feed from the whole dataset.

        pixels: uint8 (N, 3, H, W), on the device. count: number of views per image.
        """
        self.pixels, self.settings, self.count, self.device = pixels, settings, count, device
        self.augment = Augment(settings.views, device)

    def batches(self, order: Order) -> Iterator[Batch]:
        for epoch, step, indices in order:
            crops = self._crop(epoch, indices)
            views = _augmented(self.augment, self.settings.seed, epoch, indices, crops)
            yield Batch(epoch, step, _unbind_views(views), indices, Unreadable())

    def _crop(self, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        """Crop the images at `indices`: float (B, V, 3, S, S) in [0, 255]."""
        views = self.settings.views
        drawn = draw_crops(self.settings.seed, epoch, indices, views, self.count)
        boxes = drawn.boxes(*self.pixels.shape[2:])
        chosen = self.pixels[torch.from_numpy(indices).to(self.device, non_blocking=True)]
        crops = crop_resize(chosen, torch.from_numpy(boxes).to(self.device, non_blocking=True), views.size)
        return crops.view(len(indices), self.count, *crops.shape[1:])


class WorkerFeed:
    """Crops images in worker processes and augments the crops on the device.

    With the reference pipeline, the workers do both.
    """

    def __init__(
        self,
        images: Images,
        settings: Settings,
        count: int,
        device: torch.device,
        workers: int,
        warn: Callable[[str], None],
    ) -> None:
        """Create a feed that reads `images`.

        count: number of views per image. warn: called with a message when a worker
        dies.
        """
        self.name, self.settings, self.device = images.name, settings, device
        self.workers, self.warn = workers, warn
        self.dataset = view_batches(images, settings, count)
        self.augment = Augment(settings.views, device) if settings.views.pipeline != "reference" else None

    def batches(self, order: Order) -> Iterator[Batch]:
        for sample in self._samples(order):
            epoch, step, indices, views, unreadable, failure = sample
            if failure:
                raise DataError(
                    f"the images in {self.name} can no longer be read: {failure}; restore them, then "
                    "continue with --resume"
                )
            if self.augment is None:
                views = views.to(self.device, non_blocking=True)
            else:
                views = _augmented(self.augment, self.settings.seed, epoch, indices, views)
            yield Batch(epoch, step, _unbind_views(views), indices, unreadable)

    def _samples(self, order: Order) -> Iterator[Sample]:
        """Yield the workers' samples in order.

        If a worker dies, restarts all workers from the batch after the last one
        received. Raises RunError if a worker dies twice on the same batch.
        """
        pinned = self.device.type == "cuda"
        position: Position = order.start
        died_at: Position | None = None
        while True:
            samples: Iterator[Any] | None = None
            try:  # starting workers may fail too: Ctrl-C also reaches the fork server
                rest, begin = order.at(position), _ignore_interrupts
                samples = batches_of(self.dataset, rest, self.workers, _PREFETCH, pinned, begin)
                for sample in samples:
                    position = sample.epoch, sample.step + 1
                    yield sample
                return
            except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
                if self.workers == 0 or not _is_death(error):
                    raise
                cause = _how_a_worker_died(samples)
            if position == died_at:
                raise RunError(
                    f"a data worker {cause} twice on the same batch: lower loader.workers if memory is "
                    "tight, then continue with --resume"
                )
            self.warn(f"a data worker {cause}; restarting the workers")
            died_at = position


def _is_death(error: Exception) -> bool:
    """Return True if `error` means that a worker died, False if a worker raised it."""
    if str(error).startswith("Caught "):  # torch's wording for exceptions raised in workers
        return False
    return not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)


def _augmented(augment: Augment, seed: int, epoch: int, indices: NDArray[np.int64], crops: Tensor) -> Tensor:
    """Augment each of the crops (B, V, 3, S, S). Returns floats of the same shape."""
    count = crops.shape[1]
    view = (indices[:, None] * count + np.arange(count)).ravel()  # (B * V,)
    u = counter_uniform(seed, epoch, view, COLOR, DRAWS)
    return augment(crops.flatten(0, 1), u).view(crops.shape)


def _unbind_views(views: Tensor) -> tuple[Tensor, ...]:
    """Split (B, V, 3, S, S) into V channels-last tensors (B, 3, S, S)."""
    return tuple(v.contiguous(memory_format=torch.channels_last) for v in views.unbind(dim=1))


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C in a worker, so that the current step can finish.

    The terminal sends SIGINT to every process in the foreground group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _how_a_worker_died(samples: Any) -> str:
    workers = getattr(samples, "_workers", [])  # torch has no public name for this list
    if not any(worker.exitcode for worker in workers):
        time.sleep(1)  # a worker's pipe closes before its exit code is known
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes and codes[0] < 0:
        return f"was killed by {signal.Signals(-codes[0]).name}"
    return f"exited with status {codes[0]}" if codes else "exited"
