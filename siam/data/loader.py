"""Batches of views, starting at any position, in an order that depends only on (seed, epoch)."""

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
"""Largest fraction of a dataset that may be unreadable; beyond it, the run ends."""


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
    """Batches of a dataset, from worker processes or from a copy of the dataset on the device.

    `unreadable` collects the images that could not be read, `steps` is the number of batches per epoch,
    `order` decides which images each batch holds, and `cached` is True if the dataset is on the device.
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

        views: number of views per image; None means the method's own number. warn: called with each warning
        for the user. progress: called with the number of images read and the total while the dataset is being
        cached. Raises DataError if the dataset has only one image, is smaller than a batch, or cannot be
        read.
        """
        require_several(images)
        require_batch(images, settings.batch_size)
        self.images, self.settings, self.device = images, settings, device
        self.order = Order(len(images), settings, (0, 0), rank(), world_size(), images.groups)
        self.steps = self.order.steps
        self.unreadable = Unreadable()
        self.workers = settings.loader.workers if settings.loader.workers >= 0 else default_workers(device)
        count = views or (4 if settings.method.symmetry == "asymmetric_2x" else 2)
        pixels = load_cache(images, settings, device, self.record_unreadable, progress)
        self.cached = pixels is not None
        self.feed: Feed = (
            WorkerFeed(images, settings, count, device, self.workers, warn)
            if pixels is None
            else CachedFeed(pixels, settings, count, device)
        )

    def batches(self, first_epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Yield batches from a position to the end of the last epoch, each from (seed, epoch, index) alone.

        Raises DataError if images can no longer be read or more than 10 % of the dataset is unreadable, and
        RunError if a worker dies twice at the same batch.
        """
        for batch in self.feed.batches(self.order.at((first_epoch, first_step))):
            self.record_unreadable(batch.unreadable)
            yield batch

    def record_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Record images that any rank could not read. Raises DataError above 10 % of the dataset."""
        self.unreadable.update(unreadable)
        if len(self.unreadable) > MAX_UNREADABLE * len(self.images):
            raise DataError(
                f"{len(self.unreadable)} of {len(self.images)} images in {self.images.name} cannot be read, "
                f"more than 10 %: {self.unreadable.first_few()}; delete or replace them"
            )


def default_workers(device: torch.device) -> int:
    """Return the default number of workers: few on a CPU, where the network needs the cores; otherwise many.

    The cores are divided among the run's processes on this machine.
    """
    cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(8, cores - 1))
