"""Batches of views, starting at any epoch and step, in an order that depends only on (seed, epoch)."""

import os
from collections.abc import Callable, Iterator, Mapping

import torch

from siam.data.cache import load_cache
from siam.data.feeds import Batch, CachedFeed, Feed, WorkerFeed
from siam.data.images import Images
from siam.data.order import Order
from siam.data.unreadable import Unreadable
from siam.errors import DataError
from siam.processes.gather import rank, world_size
from siam.settings.pretraining import Settings
from siam.system.resources import available_cores

MAX_UNREADABLE = 0.1
"""Largest fraction of images that may be unreadable; above it, the run stops with an error."""


def require_several(images: Images) -> None:
    """Raise DataError if the dataset has only one image: nothing can be learned from it."""
    if len(images) < 2:
        raise DataError(
            f"{images.name} has only one image: training needs at least 2, so give a larger dataset"
        )


def require_batch(images: Images, batch_size: int) -> None:
    """Raise DataError if the dataset is smaller than a batch."""
    if batch_size > len(images):
        raise DataError(
            f"batch_size {batch_size} is larger than the dataset: {images.name} has {len(images)} images, so "
            "lower --batch-size"
        )


class ViewLoader:
    """Loads batches of views, with worker processes or from a copy of the dataset cached on the device.

    unreadable: images that could not be read so far. steps: number of batches per epoch. order: determines
    which images are in each batch. cached: True if the dataset is on the device.
    """

    def __init__(
        self,
        images: Images,
        settings: Settings,
        device: torch.device,
        views: int | None = None,
        warn: Callable[[str], None] = lambda line: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Choose the feed, and cache the dataset on the device if the settings call for it.

        views: number of views per image; None: as many as the method uses. warn: called with each warning for
        the user. progress: called while caching, with the number of images read and the total. Raises
        DataError if the dataset has only one image, is smaller than a batch, or cannot be read.
        """
        require_several(images)
        require_batch(images, settings.batch_size)
        self.images, self.settings, self.device = images, settings, device
        self.order = Order(len(images), settings, (0, 0), rank(), world_size(), images.groups)
        self.steps = self.order.steps
        self.unreadable = Unreadable()
        self.workers = choose_workers(settings.loader.workers, device)
        count = views or (4 if settings.method.symmetry == "asymmetric_2x" else 2)
        pixels = load_cache(images, settings, device, self.record_unreadable, progress)
        self.cached = pixels is not None
        self.feed: Feed = (
            WorkerFeed(images, settings, count, device, self.workers, warn)
            if pixels is None
            else CachedFeed(pixels, settings, count, device)
        )

    def batches(self, first_epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Yield batches from the given epoch and step to the end of the last epoch.

        The views depend only on the seed, the epoch and the image's index.

        Raises DataError if images can no longer be read or more than 10 % of the dataset is unreadable, and
        RunError if a worker dies twice on the same batch.
        """
        for batch in self.feed.batches(self.order.at((first_epoch, first_step))):
            self.record_unreadable(batch.unreadable)
            yield batch

    def record_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Record images that a rank could not read. Raises DataError if they exceed 10 % of the dataset."""
        self.unreadable.update(unreadable)
        if len(self.unreadable) > MAX_UNREADABLE * len(self.images):
            raise DataError(
                f"{len(self.unreadable)} of {len(self.images)} images in {self.images.name} cannot be read, "
                f"more than 10 %: {self.unreadable.first_few()}; delete or replace them"
            )


def choose_workers(workers: int, device: torch.device) -> int:
    """Return the requested number of worker processes, or the default for `device` if it is negative."""
    return workers if workers >= 0 else default_workers(device)


def default_workers(device: torch.device) -> int:
    """Return the default number of data workers for each process.

    Each process has an equal share of the machine's cores. If the network trains on the CPU, training needs
    most of them, so only a quarter of the cores go to workers; otherwise, all but one do, up to 8.
    """
    cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(8, cores - 1))
