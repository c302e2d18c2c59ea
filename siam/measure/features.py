"""Extract features by passing each image's center crop through a frozen encoder."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from siam.data.augment import normalize
from siam.data.decode import BrokenImage
from siam.data.geometry import CenterCrop, center_crop, resize
from siam.data.images import Images
from siam.data.workers import batches_of
from siam.errors import DataError

Views = tuple[Tensor, NDArray[np.int64]]
"""Crops or features, one row per image (B, ...), and the image indices (B,)."""

_LONGEST = 8  # times the shorter side: panoramas are cropped to this length before resizing, to save memory


def center_view(image: Tensor, crop: CenterCrop | int) -> Tensor:
    """Crop the center of an image, uint8 (3, H, W) -> (3, size, size).

    crop: that of the encoder; an int is the side of `center_crop`. An image that already has the output size
    is returned unchanged.
    """
    crop = center_crop(crop) if isinstance(crop, int) else crop
    height, width = image.shape[1:]
    size = crop.size
    if (height, width) == (size, size):
        return image
    longest = _LONGEST * min(height, width)
    image = _center(image, min(height, longest), min(width, longest))
    height, width = image.shape[1:]
    rows, columns = (int(crop.shorter * side / min(height, width)) for side in (height, width))
    return _center(resize(image, rows, columns, crop.bicubic), size, size)


def _center(image: Tensor, height: int, width: int) -> Tensor:
    top, left = (round((a - b) / 2) for a, b in zip(image.shape[1:], (height, width), strict=True))
    return image[:, top : top + height, left : left + width]


def center_views(
    images: Images,
    crop: CenterCrop | int,
    indices: NDArray[np.int64] | None = None,
    batch_size: int = 256,
    workers: int = 0,
    unreadable: dict[int, str] | None = None,
) -> Iterator[Views]:
    """Yield batches of center crops, uint8 (B, 3, size, size), in order, skipping unreadable images.

    crop: that of the encoder; an int is the side of `center_crop`. indices: images to read; None for all.
    workers: decoding processes; 0 to decode in this process. unreadable: dict to fill with the indices of
    the images that are skipped, and why.
    """
    indices = np.arange(len(images)) if indices is None else indices
    batches = [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]
    pinned = torch.cuda.is_available()
    dataset = _CenterViews(images, crop)
    for views, read, skipped in batches_of(dataset, lambda n: batches[n:], workers, pinned=pinned):
        if unreadable is not None:
            unreadable.update(skipped)
        if len(read):
            yield views, read


def stream(
    encoder: Callable[[Tensor], Tensor], batches: Iterable[Views], device: torch.device, bf16: bool = False
) -> Iterator[Views]:
    """Yield float32 features (B, D) on the CPU, batch by batch, with their image indices.

    encoder: called on normalized views (B, 3, S, S); a module is in eval mode during iteration.
    """
    training = isinstance(encoder, nn.Module) and encoder.training
    if isinstance(encoder, nn.Module):
        encoder.eval()

    # no_grad and autocast are entered per call: across a yield, they would leak into the caller.
    @torch.no_grad()
    def features(views: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            x = normalize(views.to(device, non_blocking=True).float() / 255)
            return encoder(x).float()

    try:
        pending: Views | None = None
        for views, indices in batches:
            launched = features(views), indices
            if pending is not None:
                yield pending[0].cpu(), pending[1]  # while the GPU computes the next batch
            pending = launched
        if pending is not None:
            yield pending[0].cpu(), pending[1]
    finally:
        if isinstance(encoder, nn.Module):
            encoder.train(training)


def extract(
    encoder: Callable[[Tensor], Tensor],
    batches: Iterable[Views],
    device: torch.device,
    bf16: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Views:
    """Concatenate the output of `stream`: float32 features (N, D) on the CPU, and image indices (N,).

    progress: called after each batch with its image count. Raises DataError if no image can be read.
    """
    features, indices = [], []
    for batch_features, batch_indices in stream(encoder, batches, device, bf16):
        features.append(batch_features)
        indices.append(batch_indices)
        if progress is not None:
            progress(len(batch_indices))
    if not features:
        raise DataError("none of the images can be read")
    return torch.cat(features), np.concatenate(indices)


class _CenterViews(Dataset[Any]):
    def __init__(self, images: Images, crop: CenterCrop | int) -> None:
        self.images, self.crop = images, center_crop(crop) if isinstance(crop, int) else crop

    def __getitem__(self, indices: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64], dict[int, str]]:
        views, read, skipped = [], [], {}
        for i in indices:
            try:
                views.append(center_view(self.images.read(int(i)), self.crop))
            except BrokenImage as error:
                skipped[int(i)] = error.reason
                continue
            read.append(i)
        size = self.crop.size
        stacked = torch.stack(views) if views else torch.empty(0, 3, size, size, dtype=torch.uint8)
        return stacked, np.array(read, dtype=np.int64), skipped
