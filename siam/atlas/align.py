"""Compare two small pictures, once one is shifted and scaled onto the other.

A crop or a resize moves every pixel, so that copies differ pixel by pixel. The shift and the scale along each
axis are found by Gauss-Newton steps on the correlation (Evangelidis & Psarakis 2008, enhanced correlation
coefficient, with four parameters). What is then compared is detail: the picture less its blurred self.
Different photographs of one kind, such as a sky above a horizon, agree in coarse shapes but not in details.
Bars and frames are left out of it: many different photographs have the same.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_SCALES = (0.87, 1.15)
_SHIFT = 0.15  # of half the side, like all coordinates here
_STEPS = 8  # of which the first quarter on blurred pictures, which agree from farther away
_DAMPING = 1e-3
_CLIP = 16.0  # gray levels: a hard edge must not outweigh everything else
_COARSE = 0.8  # least correlation of the pictures themselves
_FLAT = 2.0  # gray levels of standard deviation: less than this is a picture of nothing


def agreement(a: Tensor, b: Tensor, steps: int = _STEPS) -> Tensor:
    """Return the correlation of the details of aligned pictures, at most 1 (P,); 0 where there are none.

    a, b: gray levels from 0 to 255, float (P, S, S). Pairs whose pictures correlate by less than 0.8 once
    aligned, and pictures that are almost uniform, get 0. steps: Gauss-Newton steps.
    """
    motion = _align(a, b, steps)
    warped, inside = _warp(b, motion)
    coarse = _correlation(warped, a, inside)
    inner = inside * (1 - F.max_pool2d(1 - inside[:, None], 5, stride=1, padding=2)[:, 0])  # blur reads 2 px
    fine = _correlation(_detail(warped, inner), _detail(a, inner), inner)
    flat = torch.minimum(*(x.flatten(1).std(dim=1) for x in (a, b))) < _FLAT
    return fine.where((coarse >= _COARSE) & ~flat, 0.0)


def _detail(x: Tensor, inside: Tensor) -> Tensor:
    """Return pictures less their blurred selves, and less the means of rows and columns: bars and frames."""
    x = (x - _blur(x)).clamp(-_CLIP, _CLIP)
    for axis in (1, 2):
        count = inside.sum(dim=axis, keepdim=True).clamp(min=1)
        x = (x - (x * inside).sum(dim=axis, keepdim=True) / count) * inside
    return x


def _align(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Return the shift and scale (x, y, x, y) of each b that aligns it with a, in half sides: (P, 4)."""
    count, side = a.shape[:2]
    x, y = _grid(a)
    motion = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
    blurred = _blur(a), _blur(b)
    damping = _DAMPING * side * side * torch.eye(4)
    for step in range(steps):
        fixed, moving = blurred if step < -(-steps // 4) else (a, b)
        warped, inside = _warp(moving, motion)
        w, deviation = _standardized(warped, inside)
        residual = _standardized(fixed, inside)[0] - w  # (P, S, S)
        dx, dy = (slope * inside / deviation for slope in _slopes(warped))
        jacobian = torch.stack([dx, dy, dx * x, dy * y], dim=-1).flatten(1, 2)  # (P, S * S, 4)
        hessian = jacobian.mT @ jacobian + damping
        right = jacobian.mT @ residual.flatten(1)[..., None]  # (P, 4, 1)
        motion = motion + torch.linalg.solve(hessian, right)[..., 0].clamp(-0.1, 0.1)
        shift, scale = motion.split(2, dim=1)
        motion = torch.cat([shift.clamp(-_SHIFT, _SHIFT), scale.clamp(*_SCALES)], dim=1)
    return motion


def _grid(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the x and y of each pixel's center in [-1, 1]: (1, 1, S) and (1, S, 1)."""
    side = a.shape[-1]
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    return line[None, None, :], line[None, :, None]


def _warp(b: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return b seen through the motion, and 1 where that lies within b: (P, S, S) each."""
    x, y = _grid(b)
    shift_x, shift_y, scale_x, scale_y = motion.T[..., None, None]
    u = (x * scale_x + shift_x).expand_as(b)
    v = (y * scale_y + shift_y).expand_as(b)
    at = torch.stack([u, v], dim=-1)
    warped = F.grid_sample(b[:, None], at, padding_mode="border", align_corners=False)[:, 0]
    return warped, ((u.abs() <= 1) & (v.abs() <= 1)).float()


def _standardized(x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with mean 0 and variance 1 where it counts, 0 elsewhere, and its deviation (P, 1, 1)."""
    count = inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    x = (x - (x * inside).sum(dim=(1, 2), keepdim=True) / count) * inside
    deviation = (x.square().sum(dim=(1, 2), keepdim=True) / count).sqrt() + 1e-6
    return x / deviation, deviation


def _correlation(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    """Return the correlation where `inside` is 1 (P,)."""
    product = _standardized(a, inside)[0] * _standardized(b, inside)[0]
    return product.sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the central differences along x and y, per half side; 0 at the borders."""
    scale = x.shape[-1] / 4
    dx, dy = torch.zeros_like(x), torch.zeros_like(x)
    dx[:, :, 1:-1] = (x[:, :, 2:] - x[:, :, :-2]) * scale
    dy[:, 1:-1, :] = (x[:, 2:, :] - x[:, :-2, :]) * scale
    return dx, dy


def _blur(x: Tensor) -> Tensor:
    """Average over 3 x 3 pixels, twice."""
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    return x
