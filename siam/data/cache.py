"""Cache a dataset of small images in device memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from siam.data.decode import BrokenImage, decode
from siam.data.images import Images
from siam.data.unreadable import Unreadable, read_or_replace
from siam.errors import DataError
from siam.settings.pretraining import Settings
from siam.system.resources import free_memory

_SMALL = {"cpu": 64, "cuda": 256, "mps": 128}
"""Device type -> largest image side, in pixels, that "auto" caches.

Workers crop larger images faster than the device does.
"""


def load_cache(
    images: Images,
    settings: Settings,
    device: torch.device,
    record_unreadable: Callable[[Unreadable], None],
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | None:
    """Load the whole dataset onto the device as uint8 (N, 3, H, W), or return None.

    settings.loader.cache: "none", "device" or "auto", which caches the dataset only if
    its images are small, equal in size, and fit in a quarter of the free memory.
    progress: called with the number of images read and the total. Raises DataError if
    images cannot be read or, with "device", differ in size.
    """
    if not _should_cache(images, settings, device):
        return None
    stacked = images.stacked()
    if stacked is not None:
        return stacked.contiguous().to(device)
    try:
        pixels = _read_all(images, settings.loader.cache == "device", record_unreadable, progress)
    except BrokenImage as error:
        raise DataError(f"the images in {images.name} cannot be read: {error.reason}") from None
    return None if pixels is None else pixels.to(device)


def _should_cache(images: Images, settings: Settings, device: torch.device) -> bool:
    choice = settings.loader.cache
    if choice == "none" or settings.views.pipeline == "reference":
        return False
    height, width = images.size_hint
    small = max(height, width) <= _SMALL.get(device.type, 0)
    fits = 3 * height * width * len(images) < free_memory(device) / 4
    return choice == "device" or (small and fits)


def _read_all(
    images: Images,
    insist: bool,
    record_unreadable: Callable[[Unreadable], None],
    progress: Callable[[int, int], None] | None,
) -> Tensor | None:
    """Read all images as uint8 (N, 3, H, W).

    If image sizes differ, raises DataError if `insist` is True, else returns None.
    """
    pixels = torch.empty(0)
    for i in range(len(images)):
        unreadable = Unreadable()
        image, _ = read_or_replace(images, i, unreadable, lambda at: _read(images, at))
        record_unreadable(unreadable)
        if i == 0:
            pixels = torch.empty(len(images), *image.shape, dtype=torch.uint8)
        height, width = pixels.shape[2:]
        if image.shape[1:] != (height, width):
            if not insist:
                return None
            raise DataError(
                f"loader.cache device requires images of equal size: {images.path(i)} is "
                f"{image.shape[2]} x {image.shape[1]}, but the previous images are "
                f"{width} x {height}; use --loader.cache auto"
            )
        pixels[i] = image
        if progress is not None and i % 100 == 99:
            progress(i + 1, len(images))
    return pixels


def _read(images: Images, i: int) -> Tensor:
    """Read image i with the same fast JPEG decoding as in the workers."""
    data = images.encoded(i)
    return images.read(i) if data is None else decode(data, smooth_chroma=False)
