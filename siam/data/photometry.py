"""What happens to a view's colours and sharpness, for a whole batch at once on the device.

Brightness, contrast, saturation, hue (a rotation in YIQ) and greyscale are affine maps of RGB: in YIQ the
first two scale all of it, the others turn and scale the two chroma axes. So they commute, the random order of
the published pipeline makes no difference, and together they are one 3x3 matrix and one offset per view: a
single product over the pixels. Gaussian blur is two more, with one banded matrix per view. What differs from
the published pipeline: values are clamped to [0, 1] once after all colour maps, not after each; and hue turns
in YIQ, where Pillow turns in HSV.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.settings import ViewSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DRAWS = 10
"""Uniform numbers that one view takes."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
RGB_TO_YIQ = torch.tensor(
    [[*_LUMA], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
)
"""The NTSC matrix (FCC 1953): luma, and the plane of the chroma axes I and Q in which hues turn."""


class Photometry:
    """uint8 crops in, normalised float views out.

    Calling it: crops uint8 or float in [0, 255], (N, 3, H, W); u, uniform draws (N, DRAWS), which decide
    everything. Returns float (N, 3, H, W), channels last, normalised with ImageNet's mean and deviation.
    """

    def __init__(self, views: ViewSettings, device: torch.device) -> None:
        self.views = views
        self.luma = torch.tensor(_LUMA, device=device)
        self.to_yiq = RGB_TO_YIQ.float().to(device)
        self.from_yiq = RGB_TO_YIQ.inverse().float().to(device)

    def __call__(self, crops: Tensor, u: NDArray[np.float64]) -> Tensor:
        device = self.luma.device
        blurred = np.flatnonzero(u[:, 0] < self.views.blur_p)
        draws = torch.from_numpy(u.astype(np.float32)).to(device, non_blocking=True)
        x = crops.to(device, non_blocking=True) / 255  # (N, 3, H, W)
        x = self.colour(x, draws)
        if len(blurred):
            chosen = torch.from_numpy(blurred).to(device, non_blocking=True)
            low, high = self.views.blur_sigma
            x[chosen] = blur(x[chosen], low + (high - low) * draws[chosen, 1])
        if self.views.solarize_p > 0:
            bright = (draws[:, 2] < self.views.solarize_p)[:, None, None, None] & (x >= 0.5)
            x = torch.where(bright, 1 - x, x)
        return normalise(x)

    def colour(self, x: Tensor, draws: Tensor) -> Tensor:
        """One affine map of RGB per view. x: (N, 3, H, W) in [0, 1]."""
        n, _, h, w = x.shape
        grey = x.mean(dim=(2, 3)) @ self.luma  # (N,), the level that contrast stretches about
        matrix, offset = self.colour_maps(grey, draws)
        pixels = torch.baddbmm(offset, matrix, x.flatten(2))  # (N, 3, H * W)
        return pixels.clamp_(0, 1).view(n, 3, h, w)

    def colour_maps(self, grey: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices (N, 3, 3) and offsets (N, 3, 1). grey: mean luma of each view (N,)."""
        v = self.views
        jitter = (draws[:, 3] < v.jitter_p).float()
        signed = (2 * draws[:, 4:8] - 1) * jitter[:, None]  # (N, 4) in [-1, 1)
        brightness, contrast, saturation = (
            (1 + signed[:, i] * strength).clamp(min=0)
            for i, strength in enumerate((v.brightness, v.contrast, v.saturation))
        )
        chroma = saturation * (draws[:, 8] >= v.grey_p)  # greyscale is no chroma at all
        angle = -2 * torch.pi * signed[:, 3] * v.hue  # from red to yellow is clockwise in YIQ
        cos, sin, zero = chroma * angle.cos(), chroma * angle.sin(), torch.zeros_like(angle)
        turn = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
        matrix = (brightness * contrast)[:, None, None] * (self.from_yiq @ turn @ self.to_yiq)
        offset = brightness * (1 - contrast) * grey
        return matrix, offset[:, None, None].expand(-1, 3, 1)


def normalise(x: Tensor) -> Tensor:
    """[0, 1] -> zero mean and unit deviation over ImageNet, in channels-last memory. x: (N, 3, H, W)."""
    mean, std = (x.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    out = torch.empty_like(x, memory_format=torch.channels_last)
    return torch.sub(x, mean, out=out).div_(std)


def denormalise(x: Tensor) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = (x.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    return x * std + mean


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, a sigma (pixels) per view, as two products with banded matrices; edges are reflected.

    x: (N, 3, H, W). sigma: (N,), above 0. The kernel is cut at 4 sigma.
    """
    n, c, h, w = x.shape
    rows, columns = _blur_matrix(sigma, h), _blur_matrix(sigma, w)
    x = (x.reshape(n, c * h, w) @ columns.transpose(1, 2)).view(n, c, h, w)
    return rows[:, None] @ x


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(N,) -> (N, size, size), rows summing to 1; weight that would fall outside is mirrored back in."""
    at = torch.arange(size, device=sigma.device, dtype=torch.float32)
    period = max(2 * (size - 1), 1)
    total = torch.zeros(len(sigma), size, size, device=sigma.device)
    for image in (0, 1):  # a source pixel, and its mirror image across either edge
        source = at if image == 0 else -at
        delta = source[None, :] - at[:, None]
        delta = delta - period * torch.round(delta / period)  # nearest of the periodic copies
        weight = torch.exp(-0.5 * (delta / sigma[:, None, None]) ** 2) * (
            delta.abs() <= 4 * sigma[:, None, None]
        )
        if image == 1:  # the end pixels are their own mirror images
            weight[:, :, 0] = 0
            weight[:, :, -1] = 0
        total += weight
    return total / total.sum(dim=2, keepdim=True)
