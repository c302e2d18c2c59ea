"""Load batches of views, starting at any epoch and step.

The order depends only on the seed and the epoch.
"""

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
"""Maximum fraction of unreadable images; above it, the run stops with an error."""

_MIN_IMAGES_FOR_WORKERS = 500  # for fewer, starting workers takes longer than reading


def require_several(images: Images) -> None:
    """Raise DataError if the dataset has fewer than two images."""
    if len(images) < 2:
        raise DataError(
            f"{images.name} has only one image, but training needs at least 2: use a larger dataset"
        )


def require_batch(images: Images, batch_size: int) -> None:
    """Raise DataError if the dataset is smaller than a batch."""
    if batch_size > len(images):
        raise DataError(
            f"batch_size {batch_size} is larger than the dataset "
            f"({len(images)} images in {images.name}): lower --batch-size"
        )


class ViewLoader:
    """Loads batches of views, in worker processes or from a cache on the device.

    unreadable: images that could not be read so far. steps: number of batches per
    epoch. order: determines the images in each batch. cached: True if the dataset is
    cached on the device.
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

        views: number of views per image; None: as many as the method uses. warn: called
        with each warning. progress: called while caching, with the number of images
        read and the total. Raises DataError if the dataset has only one image, is
        smaller than a batch, or cannot be read.
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

        An image's views depend only on the seed, the epoch and the image's index.
        Raises DataError if images can no longer be read or more than 10 % of the
        dataset is unreadable, and RunError if a worker dies twice on the same batch.
        """
        for batch in self.feed.batches(self.order.at((first_epoch, first_step))):
            self.record_unreadable(batch.unreadable)
            yield batch

    def record_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Record images that a rank could not read.

        Raises DataError if more than 10 % of the dataset is unreadable.
        """
        self.unreadable.update(unreadable)
        if len(self.unreadable) > MAX_UNREADABLE * len(self.images):
            raise DataError(
                f"{len(self.unreadable)} of {len(self.images)} images in {self.images.name} cannot be read, "
                f"more than 10 %: {self.unreadable.first_few()}; delete or replace them"
            )


def choose_workers(workers: int, device: torch.device, images: int | None = None) -> int:
    """Return `workers`, or the default number for `device` if `workers` is negative.

    images: the number to be read once; for a few hundred, the default is 0.
    """
    if workers >= 0:
        return workers
    return 0 if images is not None and images < _MIN_IMAGES_FOR_WORKERS else default_workers(device)


def default_workers(device: torch.device) -> int:
    """Return the default number of data workers for each process.

    Each process has an equal share of the machine's cores. When training on the CPU,
    a quarter of these cores are used for workers, because the network needs the rest;
    otherwise, all but one are used, up to 8.
    """
    cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(8, cores - 1))
