"""Random resized crops: draw a box for each view, and resize with two matrix products.

Boxes are drawn as in torchvision's RandomResizedCrop (a random area, a log-uniform
aspect ratio and a random offset; after ten failed attempts, the largest center crop),
but for a whole batch at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_TRIES = 10


def draws_needed(views: int) -> int:
    """Return the number of uniform random numbers that `Crops` needs per image."""
    return views * (2 * _TRIES + 3)


class Crops:
    """V random crops for each of B images, drawn before the image sizes are known.

    Iterating yields one `Crops` per image.
    """

    def __init__(
        self,
        u: NDArray[np.float64],
        views: int,
        scale: tuple[float, float],
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_p: float = 0.5,
    ) -> None:
        """Turn uniform random numbers `u` (B, draws_needed(views)) into crops.

        scale: smallest and largest crop area, as fractions of the image area. ratio:
        smallest and largest aspect ratio (width / height). flip_p: probability of a
        horizontal flip.
        """
        u = u.reshape(len(u), views, 2 * _TRIES + 3)
        area = scale[0] + (scale[1] - scale[0]) * u[..., :_TRIES]  # (B, V, tries)
        low, high = np.log(ratio[0]), np.log(ratio[1])
        aspect = np.exp(low + (high - low) * u[..., _TRIES : 2 * _TRIES])
        self.ratio = ratio
        self.sides = np.sqrt(np.stack([area / aspect, area * aspect], axis=-1))  # (B, V, tries, 2)
        """Height and width of each candidate crop, relative to sqrt(image area)."""
        self.offset = u[..., -3:-1]  # (B, V, 2)
        """Crop position: 0 is the top or left edge, 1 the bottom or right edge."""
        self.flipped = (u[..., -1:] < flip_p).astype(np.int64)  # (B, V, 1)

    def __iter__(self) -> Iterator["Crops"]:
        for i in range(len(self.sides)):
            one = Crops.__new__(Crops)
            one.ratio, one.sides = self.ratio, self.sides[i : i + 1]
            one.offset, one.flipped = self.offset[i : i + 1], self.flipped[i : i + 1]
            yield one

    def boxes(self, height: int, width: int) -> NDArray[np.int64]:
        """Return boxes (B, V, 5) for images of size height x width.

        Each box is (top, left, height, width, flipped).
        """
        sides, size = np.rint(self.sides * (height * width) ** 0.5), (height, width)
        fits = ((sides > 0) & (sides <= size)).all(axis=-1)  # (B, V, tries)
        first = fits.argmax(axis=-1)
        images, views = np.indices(first.shape, sparse=True)
        side = sides[images, views, first]  # (B, V, 2)
        corner = np.floor(self.offset * (size - side + 1))
        none_fits = ~fits[images, views, first]
        if none_fits.any():
            side[none_fits] = _largest_central(height, width, self.ratio)
            corner[none_fits] = (size - side[none_fits]) // 2
        return np.concatenate([corner.astype(np.int64), side.astype(np.int64), self.flipped], axis=-1)

    def max_downscale(self, height: int, width: int, size: int) -> int:
        """Return the largest factor (at least 1) by which images may be downscaled.

        height, width: full resolution. Crops of at least `size` x `size` pixels at full
        resolution still have at least that many pixels after downscaling.
        """
        if min(height, width) < 2 * size:
            return 1  # most images: no need to compute the boxes
        return max(1, int(self.boxes(height, width)[..., 2:4].min()) // size)


def _largest_central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return the largest crop with an aspect ratio within `ratio`: height, width."""
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


@dataclass(frozen=True)
class CenterCrop:
    """The square in an image's center, at the size that an encoder expects."""

    size: int
    """Side length in pixels."""
    shorter: int
    """Length in pixels to which the image's shorter side is resized before cropping, at least `size`."""
    bicubic: bool = False
    """Resize with bicubic rather than bilinear interpolation."""


def center_crop(size: int) -> CenterCrop:
    """Return the center crop of encoders that Siam trained, as in the 256 / 224 protocol.

    Below 64 pixels, the whole shorter side is used, to keep the borders.
    """
    return CenterCrop(size, size if size < 64 else round(size * 8 / 7))


def resize(image: Tensor, height: int, width: int, bicubic: bool = False) -> Tensor:
    """Resize a uint8 image (3, H, W) with antialiased bilinear, or bicubic, interpolation.

    This is fastest for channels-last images, such as those returned by `decode`. A
    batch dimension is added so that torch recognizes this layout, which halves the
    time.
    """
    if image.shape[1:] == (height, width):
        return image
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    mode = "bicubic" if bicubic else "bilinear"
    return F.interpolate(batch, size=(height, width), mode=mode, antialias=True)[0]


def resize_matrix(start: Tensor, length: Tensor, flipped: Tensor, source: int, size: int) -> Tensor:
    """Return weights that resize pixels [start, start + length) of `source` to `size`.

    start, length, flipped: (N,). Returns (N, size, source); each row sums to 1. This is
    the triangle filter of Pillow and torchvision (antialiased linear), whose support
    widens with the scale when downscaling.
    """
    scale = (length.float() / size)[:, None, None]  # source pixels per output pixel
    out = torch.arange(size, device=start.device, dtype=torch.float32)
    out = torch.where(flipped.bool()[:, None], size - 1 - out, out)[:, :, None]  # (N, size, 1)
    src = torch.arange(source, device=start.device, dtype=torch.float32) - start[:, None].float()
    src = src[:, None, :]  # (N, 1, source), counted from the span's start
    distance = (src + 0.5 - (out + 0.5) * scale).abs()
    inside = (src >= 0) & (src < length[:, None, None])
    weight = (1 - distance / scale.clamp(min=1)).clamp_(min=0) * inside
    return weight / weight.sum(dim=2, keepdim=True)


def crop_resize(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop and resize a batch of images with two matrix products instead of a loop.

    images: uint8 (B, 3, H, W). boxes: (B, V, 5) from `Crops.boxes`, on the same device.
    Returns floats (B * V, 3, size, size) in [0, 255], rounded as in a uint8 resize.
    """
    (_, channels, height, width), views = images.shape, boxes.shape[1]
    top, left, h, w, flipped = boxes.flatten(0, 1).unbind(dim=1)  # (N,), N = B * V
    rows = resize_matrix(top, h, torch.zeros_like(flipped), height, size)  # (N, S, H)
    columns = resize_matrix(left, w, flipped, width, size)  # (N, S, W)
    x = images.float().repeat_interleave(views, dim=0)  # (N, 3, H, W)
    x = (x.reshape(-1, channels * height, width) @ columns.transpose(1, 2)).view(-1, channels, height, size)
    return (rows[:, None] @ x).round_()
