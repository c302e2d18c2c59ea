"""Batches of views in an order that depends on (seed, epoch) alone.

Two ways lead to the device. Large images are decoded and cropped by worker processes, and only colours are
left to the device. Small ones stay on the device as uint8, all of them, and the crop happens there too.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from siam.data.chance import permutation, uniforms
from siam.data.geometry import crop_boxes, crop_resize, draws_needed
from siam.data.images import ArrayImages, Images
from siam.data.photometry import DRAWS, Photometry
from siam.data.views import GEOMETRY, PHOTOMETRY, Broken, Key, ViewBatches, read_or_replace
from siam.errors import DataError
from siam.settings import Settings

_SMALL = {"cpu": 64, "cuda": 256, "mps": 128}
"""Sides (pixels) up to which cropping on the device beats cropping on the workers, by device."""

_BROKEN_SHARE = 0.1


@dataclass(frozen=True)
class Batch:
    """One step's images."""

    epoch: int
    step: int
    """Counted from the start of the epoch."""
    views: tuple[Tensor, ...]
    """2 views, or 4 with doubled sampling: each float (B, 3, S, S), normalised, on the device."""
    indices: NDArray[np.int64]
    crops: Tensor
    """The views before photometry, for the report: (B, V, 3, S, S) in [0, 255]."""


class ViewLoader:
    """Iterate over `batches(first_epoch, first_step)`: all batches up to the last epoch, from any position.

    views: of each image; as many as the method takes if left out. Which images could not be read is
    collected in `broken`; over 10 % of the set raises DataError.
    """

    def __init__(
        self,
        images: Images,
        settings: Settings,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
        views: int | None = None,
    ) -> None:
        if settings.batch_size > len(images):
            raise DataError(
                f"batch_size {settings.batch_size} is larger than the set: "
                f"{images.name} has {len(images)} images"
            )
        self.images, self.settings, self.device = images, settings, device
        self.count = views or (4 if settings.network.symmetry == "asymmetric_2x" else 2)
        self.steps = len(images) // settings.batch_size
        self.broken = Broken()
        self.photometry = Photometry(settings.views, device)
        self.workers = settings.loader.workers if settings.loader.workers >= 0 else default_workers(device)
        self.resident = self._load_resident(progress) if self._wants_resident() else None

    def batches(self, first_epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Batches from a position to the end of the last epoch, each made from (seed, epoch, index) alone."""
        order = _Order(len(self.images), self.settings, first_epoch, first_step)
        if self.resident is not None:
            for epoch, step, indices in order.positions():
                crops = self._crop_resident(epoch, indices)
                yield self._finish(epoch, step, crops, indices)
            return
        dataset = ViewBatches(self.images, self.settings.views, self.count, self.settings.seed)
        worker_batches = DataLoader(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.workers else None,
            multiprocessing_context="forkserver" if self.workers else None,
        )
        for (epoch, step, _), (crops, indices, broken) in zip(order.positions(), worker_batches, strict=True):
            self._note(broken)
            yield self._finish(epoch, step, crops, indices)

    def _finish(self, epoch: int, step: int, crops: Tensor, indices: NDArray[np.int64]) -> Batch:
        """Photometry, and one tensor per view."""
        if crops.is_floating_point() and self.settings.views.pipeline == "reference":
            views = crops.to(self.device, non_blocking=True)
        else:
            position = (indices[:, None] * self.count + np.arange(self.count)).ravel()
            u = uniforms(self.settings.seed, epoch, position, PHOTOMETRY, DRAWS)
            views = self.photometry(crops.flatten(0, 1), u).view(*crops.shape[:2], *crops.shape[2:])
        each = (v.contiguous(memory_format=torch.channels_last) for v in views.unbind(dim=1))
        return Batch(epoch, step, tuple(each), indices, crops)

    def _crop_resident(self, epoch: int, indices: NDArray[np.int64]) -> Tensor:
        assert self.resident is not None
        views = self.settings.views
        height, width = self.resident.shape[2:]
        u = uniforms(self.settings.seed, epoch, indices, GEOMETRY, draws_needed(self.count))
        boxes = crop_boxes(u, height, width, self.count, views.scale, flip_p=views.flip_p)
        chosen = self.resident[torch.from_numpy(indices).to(self.device, non_blocking=True)]
        crops = crop_resize(chosen, torch.from_numpy(boxes).to(self.device, non_blocking=True), views.size)
        return crops.view(len(indices), self.count, *crops.shape[1:])

    def _note(self, broken: Broken) -> None:
        self.broken.update(broken)
        if len(self.broken) > _BROKEN_SHARE * len(self.images):
            path, reason = next(iter(self.broken.items()))
            raise DataError(
                f"{len(self.broken)} of {len(self.images)} images in {self.images.name} cannot be read, "
                f"more than 10 %; the first is {path} ({reason})"
            )

    def _wants_resident(self) -> bool:
        """Whether the whole set should live on the device; reads one image to know their size."""
        choice = self.settings.loader.resident
        if choice == "no" or self.settings.views.pipeline == "reference":
            return False
        first, _ = read_or_replace(self.images, 0, Broken())
        small = max(first.shape[1:]) <= _SMALL.get(self.device.type, 0)
        fits = first.numel() * len(self.images) < _free_memory(self.device) / 4
        return choice == "yes" or (small and fits)

    def _load_resident(self, progress: Callable[[int, int], None] | None) -> Tensor | None:
        """uint8 (N, 3, H, W) on the device; None where images differ in size and nobody asked for this."""
        if isinstance(self.images, ArrayImages):
            array = torch.from_numpy(np.ascontiguousarray(self.images.images))
            return array.permute(0, 3, 1, 2).contiguous().to(self.device)
        first, _ = read_or_replace(self.images, 0, Broken())
        all_images = torch.empty(len(self.images), *first.shape, dtype=torch.uint8)
        for i in range(len(self.images)):
            broken = Broken()
            image, _ = read_or_replace(self.images, i, broken)
            self._note(broken)
            if image.shape != first.shape:
                if self.settings.loader.resident == "auto":
                    return None
                raise DataError(
                    f"loader.resident needs images of one size: {self.images.path(i)} is "
                    f"{image.shape[2]} x {image.shape[1]}, others {first.shape[2]} x {first.shape[1]}"
                )
            all_images[i] = image
            if progress is not None and i % 100 == 99:
                progress(i + 1, len(self.images))
        return all_images.to(self.device)


class _Order(Sampler[Key]):
    """Which images make which batch, from any position on."""

    def __init__(self, size: int, settings: Settings, first_epoch: int, first_step: int) -> None:
        self.size, self.settings, self.start = size, settings, (first_epoch, first_step)

    def positions(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        first_epoch, first_step = self.start
        batch = self.settings.batch_size
        for epoch in range(first_epoch, self.settings.epochs):
            order = permutation(self.settings.seed, epoch, self.size)
            for step in range(first_step if epoch == first_epoch else 0, self.size // batch):
                yield epoch, step, order[step * batch : (step + 1) * batch]

    def __iter__(self) -> Iterator[Key]:
        return ((epoch, indices) for epoch, _, indices in self.positions())


def _as_it_is(batch: Any) -> Any:
    return batch


def default_workers(device: torch.device) -> int:
    """On a CPU the network needs the cores; beside an accelerator the workers do."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(8, cores - 1))


def _free_memory(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
