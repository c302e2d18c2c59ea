"""Feeds yield batches of views on the device, in a given order.

`WorkerFeed` decodes and crops images in worker processes and applies color augmentation
on the device. `CachedFeed` keeps a dataset of small images on the device as uint8 and
crops them there as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.augment import DRAWS, Augment
from siam.data.geometry import crop_resize
from siam.data.images import Images
from siam.data.order import Order
from siam.data.random import COLOR, counter_uniform
from siam.data.unreadable import Unreadable
from siam.data.views import Sample, draw_crops, view_batches
from siam.data.workers import batches_of
from siam.errors import DataError
from siam.settings.checks import parse_duration
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
        is lost.
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
        """Yield the workers' samples in order. Raises RunError if one is lost twice on the same batch."""
        return batches_of(
            self.dataset, order.after, self.workers, _PREFETCH, self.device.type == "cuda", self.warn,
            parse_duration(self.settings.timeout, "timeout"),
            "lower loader.workers if memory is tight, then continue with --resume",
        )  # fmt: skip


def _augmented(augment: Augment, seed: int, epoch: int, indices: NDArray[np.int64], crops: Tensor) -> Tensor:
    """Augment each of the crops (B, V, 3, S, S). Returns floats of the same shape."""
    count = crops.shape[1]
    view = (indices[:, None] * count + np.arange(count)).ravel()  # (B * V,)
    u = counter_uniform(seed, epoch, view, COLOR, DRAWS)
    return augment(crops.flatten(0, 1), u).view(crops.shape)


def _unbind_views(views: Tensor) -> tuple[Tensor, ...]:
    """Split (B, V, 3, S, S) into V channels-last tensors (B, 3, S, S)."""
    return tuple(v.contiguous(memory_format=torch.channels_last) for v in views.unbind(dim=1))
