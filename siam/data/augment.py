"""Color augmentation and blur for a whole batch of views at once, on the device.

Brightness, contrast, saturation, hue (a rotation in YIQ) and grayscale are affine maps
of RGB: in YIQ, the first two scale all channels, and the others rotate and scale the
two chroma axes. These maps therefore commute, so the random order of the published
pipeline makes no difference. Together they form one 3x3 matrix and one offset per view,
applied to all pixels in a single matrix product. Gaussian blur is two more products,
with banded matrices. There are two differences from the published pipeline: values are
clamped to [0, 1] once, after all color maps, rather than after each; and hue is rotated
in YIQ, whereas Pillow uses HSV.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from siam.settings.pretraining import ViewSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DRAWS = 10
"""Number of uniform random numbers that `Augment` needs per view."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and torchvision
RGB_TO_YIQ = torch.tensor(
    [[*_LUMA], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
)
"""The NTSC RGB-to-YIQ matrix (FCC 1953). Its rows are luma (Y) and the chroma axes (I, Q); hue is the angle
in the IQ plane."""


_PIXELS_IN_CACHE = 200_000
"""Number of pixels processed at a time on a CPU, so that intermediates fit in cache."""


class Augment:
    """Augments crops and normalizes them; the caller supplies all random numbers."""

    def __init__(self, views: ViewSettings, device: torch.device) -> None:
        self.views, self.device = views, device
        self.luma = torch.tensor(_LUMA, device=device)
        self.to_yiq = RGB_TO_YIQ.float().to(device)
        self.from_yiq = RGB_TO_YIQ.inverse().float().to(device)

    def __call__(self, crops: Tensor, u: NDArray[np.float64]) -> Tensor:
        """Augment crops (N, 3, H, W), uint8 or float in [0, 255], and normalize them.

        u: uniform random numbers in [0, 1), (N, DRAWS). Returns channels-last floats
        (N, 3, H, W), normalized with ImageNet's mean and standard deviation.
        """
        n, _, h, w = crops.shape
        crops = crops.to(self.device, non_blocking=True)
        out = torch.empty(
            crops.shape, device=self.device, dtype=torch.float32, memory_format=torch.channels_last
        )
        chunk_size = max(1, _PIXELS_IN_CACHE // (h * w)) if self.device.type == "cpu" else n
        for start in range(0, n, chunk_size):
            chunk = slice(start, start + chunk_size)
            out[chunk] = normalize(self.pixels(crops[chunk], u[chunk]))
        return out

    def pixels(self, crops: Tensor, u: NDArray[np.float64]) -> Tensor:
        """Augment like `__call__`, but return unnormalized values in [0, 1]."""
        draws = torch.from_numpy(u.astype(np.float32)).to(self.device, non_blocking=True)
        x = self.color(crops, draws)
        blurred = np.flatnonzero(u[:, 0] < self.views.blur_p)
        if len(blurred):
            chosen = torch.from_numpy(blurred).to(self.device, non_blocking=True)
            low, high = self.views.blur_sigma
            x[chosen] = blur(x[chosen], low + (high - low) * draws[chosen, 1], high)
        if self.views.solarize_p > 0:
            bright = (draws[:, 2] < self.views.solarize_p)[:, None, None, None] & (x >= 0.5)
            x = torch.where(bright, 1 - x, x)
        return x

    def color(self, crops: Tensor, draws: Tensor) -> Tensor:
        """Apply each view's color map to (N, 3, H, W), from [0, 255] to [0, 1]."""
        x = crops.to(torch.float32, memory_format=torch.contiguous_format)
        gray = x.mean(dim=(2, 3)) @ self.luma / 255  # (N,); contrast scales around it
        matrix, offset = self.color_maps(gray, draws)
        pixels = torch.baddbmm(offset, matrix / 255, x.flatten(2))  # (N, 3, H * W)
        return pixels.clamp_(0, 1).view(x.shape)

    def color_maps(self, gray: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return each view's color map: a matrix (N, 3, 3) and an offset (N, 3, 1).

        gray: mean luma of each view (N,).
        """
        v = self.views
        jitter = (draws[:, 3] < v.jitter_p).float()
        signed = (2 * draws[:, 4:8] - 1) * jitter[:, None]  # (N, 4) in [-1, 1)
        brightness, contrast, saturation = (
            (1 + signed[:, i] * strength).clamp(min=0)
            for i, strength in enumerate((v.brightness, v.contrast, v.saturation))
        )
        chroma = saturation * (draws[:, 8] >= v.grayscale_p)  # grayscale: zero chroma
        angle = -2 * torch.pi * signed[:, 3] * v.hue  # red to yellow is a clockwise turn in IQ
        cos, sin, zero = chroma * angle.cos(), chroma * angle.sin(), torch.zeros_like(angle)
        rotation = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
        matrix = (brightness * contrast)[:, None, None] * (self.from_yiq @ rotation @ self.to_yiq)
        offset = brightness * (1 - contrast) * gray
        return matrix, offset[:, None, None].expand(-1, 3, 1)


def normalize(x: Tensor) -> Tensor:
    """Normalize x (N, 3, H, W) from [0, 1] with ImageNet's mean and standard deviation.

    Returns a channels-last tensor.
    """
    mean, std = (x.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.addcmul(-mean / std, x, 1 / std).contiguous(memory_format=torch.channels_last)


def denormalize(x: Tensor) -> Tensor:
    """Invert `normalize`."""
    mean, std = (x.new_tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    return x * std + mean


def blur(x: Tensor, sigma: Tensor, max_sigma: float) -> Tensor:
    """Blur each view with its own Gaussian kernel, using reflection padding.

    x: (N, 3, H, W). sigma: standard deviations in pixels (N,), positive and at most
    `max_sigma`. Kernels are truncated at 4 sigma or at the view's size, whichever is
    smaller. Rows and columns are blurred by multiplying by a banded matrix. Its rows
    are shifted copies of the kernel, so the same small block of the matrix is used for
    every strip of pixels, and few multiplications are by zero.
    """
    n, c, h, w = x.shape
    radius = min(math.ceil(4 * max_sigma), h - 1, w - 1)
    block = 16 if x.device.type == "cpu" else 64
    distance = torch.arange(block + 2 * radius, device=x.device) - radius
    distance = distance - torch.arange(block, device=x.device)[:, None]  # (block, block + 2 radius)
    reach = (4 * sigma).clamp(max=radius)[:, None, None]
    band = torch.exp(-0.5 * (distance / sigma[:, None, None]) ** 2) * (distance.abs() <= reach)
    band = (band / band.sum(dim=2, keepdim=True)).repeat_interleave(c, dim=0)  # (N * 3, ...)
    x = x.reshape(n * c, h, w)
    for along in (1, 2):
        padded = F.pad(x, (0, 0, radius, radius) if along == 1 else (radius, radius, 0, 0), mode="reflect")
        strips = []
        for start in range(0, x.shape[along], block):
            length = min(block, x.shape[along] - start)
            strip = padded.narrow(along, start, length + 2 * radius)
            weights = band[:, :length, : length + 2 * radius]
            strips.append(weights @ strip if along == 1 else strip @ weights.mT)
        x = torch.cat(strips, dim=along)
    return x.view(n, c, h, w)
