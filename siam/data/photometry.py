"""What happens to a view's colours and sharpness, for a whole batch at once on the device.

Brightness, contrast, saturation, hue (a rotation in YIQ) and greyscale are affine maps of RGB. So their
random composition, in random order, is one 4x4 matrix per view, and all of them cost a single product over
the pixels. Gaussian blur is two more products, with one banded matrix per view. Differences from the
published pipeline: values are clamped to [0, 1] once after all colour maps, not after each; and hue turns
in YIQ, where Pillow turns in HSV (docs/views.md shows both).
"""

from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.settings import ViewSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DRAWS = 11
"""Uniform numbers that one view takes."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
_RGB_TO_YIQ = torch.tensor([[*_LUMA], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64)
_ORDERS = torch.tensor(list(permutations(range(4))))  # (24, 4): brightness, contrast, saturation, hue


class Photometry:
    """uint8 crops in, normalised float views out.

    Calling it: crops uint8 or float in [0, 255], (N, 3, H, W); u, uniform draws (N, DRAWS), which decide
    everything. Returns float (N, 3, H, W), channels last, normalised with ImageNet's mean and deviation.
    """

    def __init__(self, views: ViewSettings, device: torch.device) -> None:
        self.views = views
        self.luma = torch.tensor(_LUMA, device=device)
        self.orders = _ORDERS.to(device)
        self.to_yiq = _RGB_TO_YIQ.float().to(device)
        self.from_yiq = _RGB_TO_YIQ.inverse().float().to(device)

    def __call__(self, crops: Tensor, u: NDArray[np.float64]) -> Tensor:
        device = self.luma.device
        blurred = np.flatnonzero(u[:, 0] < self.views.blur_p)
        draws = torch.from_numpy(u.astype(np.float32)).to(device, non_blocking=True)
        x = crops.to(device, non_blocking=True).float().div_(255)  # (N, 3, H, W)
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
        """The affine maps, composed per view and applied in one product. x: (N, 3, H, W) in [0, 1]."""
        n, _, h, w = x.shape
        maps = self.colour_maps(x.mean(dim=(2, 3)), draws)  # (N, 4, 4)
        pixels = torch.baddbmm(maps[:, :3, 3:], maps[:, :3, :3], x.flatten(2))  # (N, 3, H * W)
        return pixels.clamp_(0, 1).view(n, 3, h, w)

    def colour_maps(self, mean: Tensor, draws: Tensor) -> Tensor:
        """One homogeneous 4x4 map of RGB per view. mean: the view's mean colour (N, 3), which contrast needs."""
        v, n = self.views, len(draws)
        jitter = (draws[:, 3] < v.jitter_p)[:, None]
        strengths = draws.new_tensor([v.brightness, v.contrast, v.saturation])
        factors = 1 + (2 * draws[:, 4:7] - 1) * strengths  # (N, 3)
        factors = torch.where(jitter, factors.clamp_(min=0), torch.ones_like(factors))
        angle = torch.where(jitter[:, 0], (2 * draws[:, 7] - 1) * v.hue, 0.0) * (2 * torch.pi)
        order = self.orders[(draws[:, 8] * len(self.orders)).long()]  # (N, 4)

        identity = torch.eye(4, device=draws.device).expand(n, 4, 4)
        steps = torch.stack(  # (N, 4 kinds, 4, 4)
            [self._scale(factors[:, 0]), self._scale(factors[:, 1]), self._saturate(factors[:, 2]), self._turn(angle)],
            dim=1,
        )
        total, views = identity, torch.arange(n, device=draws.device)
        mean1 = torch.cat([mean, mean.new_ones(n, 1)], dim=1)[:, :, None]  # (N, 4, 1)
        for kind in order.unbind(dim=1):
            step = steps[views, kind]
            # Contrast mixes with the mean grey of the image as it is by then.
            grey = (total @ mean1)[:, :3, 0] @ self.luma  # (N,)
            offset = torch.where(kind == 1, (1 - factors[:, 1]) * grey, 0.0)
            step[:, :3, 3] += offset[:, None]
            total = step @ total
        greyed = (draws[:, 9] < v.grey_p)[:, None, None]
        return torch.where(greyed, self._saturate(draws.new_zeros(n)) @ total, total)

    def _scale(self, factor: Tensor) -> Tensor:
        return torch.diag_embed(torch.cat([factor[:, None].expand(-1, 3), torch.ones_like(factor)[:, None]], dim=1))

    def _saturate(self, factor: Tensor) -> Tensor:
        """factor * x + (1 - factor) * grey(x)."""
        grey = self.luma.expand(3, 3)
        keep = torch.eye(3, device=factor.device)
        return _homogeneous(factor[:, None, None] * keep + (1 - factor)[:, None, None] * grey)

    def _turn(self, angle: Tensor) -> Tensor:
        """Rotate hue by `angle` (radians) about the grey axis."""
        cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
        turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
        return _homogeneous(self.from_yiq @ turn @ self.to_yiq)


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
        weight = torch.exp(-0.5 * (delta / sigma[:, None, None]) ** 2) * (delta.abs() <= 4 * sigma[:, None, None])
        if image == 1:  # the end pixels are their own mirror images
            weight[:, :, 0] = 0
            weight[:, :, -1] = 0
        total += weight
    return total / total.sum(dim=2, keepdim=True)


def _homogeneous(m: Tensor) -> Tensor:
    """(N, 3, 3) -> (N, 4, 4)."""
    out = torch.eye(4, device=m.device).repeat(len(m), 1, 1)
    out[:, :3, :3] = m
    return out
