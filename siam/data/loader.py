"""Batches of views in an order that depends on (seed, epoch) alone.

Two ways lead to the device. Large images are decoded and cropped by worker processes, and only colors are
left to the device. Small ones stay on the device as uint8, all of them, and the crop happens there too.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import BrokenImage
from siam.data.geometry import Crops, crop_resize, draws_needed
from siam.data.images import Images
from siam.data.order import Order, Position
from siam.data.photometry import DRAWS, Augment
from siam.data.random import counter_uniform
from siam.data.sources.arrays import ArrayImages
from siam.data.views import COLOR, GEOMETRY, Unreadable, ViewBatches, read_or_replace
from siam.data.workers import batches_of
from siam.errors import DataError, RunError
from siam.processes.gather import rank, world_size
from siam.settings.pretraining import Settings
from siam.system.resources import available_cores, free_memory

_SMALL = {"cpu": 64, "cuda": 256, "mps": 128}
"""Sides (pixels) up to which cropping on the device beats cropping on the workers, by device."""

MAX_UNREADABLE = 0.1


@dataclass(frozen=True)
class Batch:
    """One step's images: this process's share of the global batch."""

    epoch: int
    step: int
    """Counted from the start of the epoch."""
    views: tuple[Tensor, ...]
    """2 views, or 4 with doubled sampling: each float (B, 3, S, S), normalised, on the device."""
    indices: NDArray[np.int64]
    crops: Tensor
    """The views before photometry, for the report: (B, V, 3, S, S) in [0, 255]."""


def require_several(images: Images) -> None:
    """Raises DataError for a set of one image, from which nothing can be learnt."""
    if len(images) < 2:
        raise DataError(
            f"{images.name} has only one image: learning needs at least 2; give a set that holds more"
        )


class ViewLoader:
    """Iterate over `batches(first_epoch, first_step)`: all batches up to the last epoch, from any position.

    views: of each image; as many as the method takes if left out. tell: takes a line for the user. Which
    images could not be read is collected in `broken`. Raises DataError: over 10 % of them, a set of one image
    or of fewer than a batch.
    """

    def __init__(
        self,
        images: Images,
        settings: Settings,
        device: torch.device,
        views: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        require_several(images)
        if settings.batch_size > len(images):
            raise DataError(
                f"batch_size {settings.batch_size} is larger than the set: "
                f"{images.name} has {len(images)} images"
            )
        self.images, self.settings, self.device, self.tell = images, settings, device, tell
        self.count = views or (4 if settings.method.symmetry == "asymmetric_2x" else 2)
        groups = getattr(images, "groups", None)
        self.order = Order(len(images), settings, (0, 0), rank(), world_size(), groups)
        self.steps = self.order.steps
        self.broken = Unreadable()
        self.photometry = Augment(settings.views, device)
        self.workers = settings.loader.workers if settings.loader.workers >= 0 else default_workers(device)
        self.resident: Tensor | None = None
        self._settled = False  # whether that was decided

    def settle(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Whether the whole set lives on the device, where it is read to when this is first asked.

        progress: told how many images are read, and of how many. `batches` asks if nobody has. Raises
        DataError where images cannot be read, or differ in size though loader.cache is "device".
        """
        if not self._settled:
            self.resident = self._load_resident(progress) if self._wants_resident() else None
            self._settled = True
        return self.resident is not None

    def batches(self, first_epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a position to the end of the last epoch, each made from (seed, epoch, index) alone."""
        order = self.order.at((first_epoch, first_step))
        if self.settle():
            for (epoch, step), indices in order.positions():
                crops = self._crop_resident(epoch, indices)
                yield self._finish(epoch, step, crops, indices)
            return
        try:
            for (epoch, step), crops, indices, broken in self._from_workers(order):
                self.note(broken)
                yield self._finish(epoch, step, crops, indices)
        except BrokenImage as error:
            raise DataError(
                f"the images of {self.images.name} can no longer be read: {error.reason}; bring them back, "
                "and go on with --resume"
            ) from None

    def _from_workers(self, order: Order) -> Iterator[tuple[Position, Tensor, NDArray[np.int64], Unreadable]]:
        """What the workers make, in order. Workers that die are started anew, once for the same batch."""
        dataset = ViewBatches(self.images, self.settings.views, self.count, self.settings.seed)
        pinned, begin = self.device.type == "cuda", _leave_signals_to_the_parent
        died_at: Position | None = None
        while True:
            batches: Iterator[Any] | None = None
            for position, _ in order.positions():
                try:
                    if batches is None:  # Ctrl-C reaches what starts the workers, too
                        batches = batches_of(dataset, order, self.workers, 4, pinned, begin)
                    crops, indices, broken = next(batches)
                except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
                    if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                        raise
                    cause = _how_a_worker_died(batches)
                    if position == died_at:
                        raise RunError(
                            f"a loader process {cause} twice at the same batch; if memory is short, lower "
                            "loader.workers; go on with --resume"
                        ) from None
                    self.tell(f"a loader process {cause}: started anew")
                    died_at, order = position, order.at(position)
                    break
                yield position, crops, indices, broken
            else:
                return

    def _finish(self, epoch: int, step: int, crops: Tensor, indices: NDArray[np.int64]) -> Batch:
        """Photometry, and one tensor per view."""
        if crops.is_floating_point() and self.settings.views.pipeline == "reference":
            views = crops.to(self.device, non_blocking=True)
        else:
            position = (indices[:, None] * self.count + np.arange(self.count)).ravel()
            u = counter_uniform(self.settings.seed, epoch, position, COLOR, DRAWS)
            views = self.photometry(crops.flatten(0, 1), u).view(*crops.shape[:2], *crops.shape[2:])
        each = (v.contiguous(memory_format=torch.channels_last) for v in views.unbind(dim=1))
        return Batch(epoch, step, tuple(each), indices, crops)

    def _crop_resident(self, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        assert self.resident is not None
        views = self.settings.views
        height, width = self.resident.shape[2:]
        u = counter_uniform(self.settings.seed, epoch, indices, GEOMETRY, draws_needed(self.count))
        boxes = Crops(u, self.count, views.scale, flip_p=views.flip_p).boxes(height, width)
        chosen = self.resident[torch.from_numpy(indices).to(self.device, non_blocking=True)]
        crops = crop_resize(chosen, torch.from_numpy(boxes).to(self.device, non_blocking=True), views.size)
        return crops.view(len(indices), self.count, *crops.shape[1:])

    def note(self, broken: dict[str, str]) -> None:
        """Remember images that could not be read, here or in another process. Raises DataError."""
        self.broken.update(broken)
        if len(self.broken) > MAX_UNREADABLE * len(self.images):
            raise DataError(
                f"{len(self.broken)} of {len(self.images)} images in {self.images.name} cannot be read, "
                f"more than 10 %: {self.broken.first_few()}; delete them, or put whole ones in their place"
            )

    def _wants_resident(self) -> bool:
        """Whether the whole set should live on the device; reads one image to know their size."""
        choice = self.settings.loader.cache
        if choice == "none" or self.settings.views.pipeline == "reference":
            return False
        first, _ = read_or_replace(self.images, 0, Unreadable())
        small = max(first.shape[1:]) <= _SMALL.get(self.device.type, 0)
        fits = first.numel() * len(self.images) < free_memory(self.device) / 4
        return choice == "device" or (small and fits)

    def _load_resident(self, progress: Callable[[int, int], None] | None) -> Tensor | None:
        """uint8 (N, 3, H, W) on the device; None where images differ in size and nobody asked for this."""
        if isinstance(self.images, ArrayImages):
            array = torch.from_numpy(np.ascontiguousarray(self.images.images))
            return array.permute(0, 3, 1, 2).contiguous().to(self.device)
        first, _ = read_or_replace(self.images, 0, Unreadable())
        all_images = torch.empty(len(self.images), *first.shape, dtype=torch.uint8)
        for i in range(len(self.images)):
            broken = Unreadable()
            image, _ = read_or_replace(self.images, i, broken, shrink=lambda index, height, width: 1)
            self.note(broken)
            if image.shape != first.shape:
                if self.settings.loader.cache == "auto":
                    return None
                raise DataError(
                    f"loader.cache device needs images of one size: {self.images.path(i)} is "
                    f"{image.shape[2]} x {image.shape[1]}, others {first.shape[2]} x {first.shape[1]}"
                )
            all_images[i] = image
            if progress is not None and i % 100 == 99:
                progress(i + 1, len(self.images))
        return all_images.to(self.device)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal, but the step that is under way needs its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _how_a_worker_died(batches: Any) -> str:
    workers = getattr(batches, "_workers", [])
    if not any(worker.exitcode for worker in workers):
        time.sleep(1)  # its pipe is closed before its end is known
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes and codes[0] < 0:
        return f"was ended by {signal.Signals(-codes[0]).name}"
    return f"ended with status {codes[0]}" if codes else "ended"


def default_workers(device: torch.device) -> int:
    """On a CPU the network needs the cores; beside an accelerator the workers do.

    Processes of one run on the same machine share its cores.
    """
    cores = max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(8, cores - 1))
