"""Random resized crops: which box of an image a view shows, and the resize as a pair of matrix products.

The box is drawn as in torchvision's RandomResizedCrop: an area, a log-uniform aspect ratio, a place; ten
tries, then the largest central crop. Here all images of a batch are drawn at once, each from its position.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TRIES = 10


def draws_needed(views: int) -> int:
    """How many uniform numbers `crop_boxes` takes for one image."""
    return views * (2 * _TRIES + 3)


def crop_boxes(
    u: NDArray[np.float64],
    height: int,
    width: int,
    views: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip_p: float = 0.5,
) -> NDArray[np.int64]:
    """Boxes for `views` crops of each of B images of height x width pixels.

    u: uniform draws (B, draws_needed(views)). scale: range of the crop's share of the area. ratio: range of
    width / height. Returns (B, views, 5): top, left, height, width in pixels, and 1 where flipped.
    """
    u = u.reshape(len(u), views, 2 * _TRIES + 3)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., :_TRIES])  # (B, V, tries)
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[..., _TRIES : 2 * _TRIES])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.argmax(axis=-1)[..., None]
    w, h = (np.take_along_axis(side, first, axis=-1)[..., 0] for side in (w, h))  # (B, V)

    fallback_w, fallback_h = _largest_central(height, width, ratio)
    none_fits = ~fits.any(axis=-1)
    w[none_fits], h[none_fits] = fallback_w, fallback_h
    top = (u[..., -3] * (height - h + 1)).astype(np.int64)
    left = (u[..., -2] * (width - w + 1)).astype(np.int64)
    top[none_fits], left[none_fits] = (height - fallback_h) // 2, (width - fallback_w) // 2
    flipped = (u[..., -1] < flip_p).astype(np.int64)
    return np.stack([top, left, h, w, flipped], axis=-1)


def _largest_central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Width and height of the largest crop whose aspect ratio lies in range."""
    if width / height < ratio[0]:
        return width, max(1, round(width / ratio[0]))
    if width / height > ratio[1]:
        return max(1, round(height * ratio[1])), height
    return width, height


def resize_matrix(start: Tensor, length: Tensor, flipped: Tensor, source: int, size: int) -> Tensor:
    """Antialiased linear resize of the span [start, start + length) of `source` pixels to `size`, as weights.

    start, length, flipped: (N,). Returns (N, size, source), each row summing to 1: the triangle filter that
    Pillow and torchvision use, its support widened by the scale when shrinking.
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
    """Cut and resize every box: two matrix products instead of a loop over images.

    images: uint8 (B, 3, H, W). boxes: (B, V, 5) as from `crop_boxes`, on the images' device.
    Returns float (B * V, 3, size, size) in [0, 255], rounded to whole levels as a uint8 resize would be.
    """
    (_, channels, height, width), views = images.shape, boxes.shape[1]
    top, left, h, w, flipped = boxes.flatten(0, 1).unbind(dim=1)  # (N,), N = B * V
    rows = resize_matrix(top, h, torch.zeros_like(flipped), height, size)  # (N, S, H)
    columns = resize_matrix(left, w, flipped, width, size)  # (N, S, W)
    x = images.float().repeat_interleave(views, dim=0)  # (N, 3, H, W)
    x = (x.reshape(-1, channels * height, width) @ columns.transpose(1, 2)).view(-1, channels, height, size)
    return (rows[:, None] @ x).round_()
