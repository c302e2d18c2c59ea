"""The momentum encoder: the target branch of BYOL (Grill et al. 2020) and MoCo (He et al. 2020)."""

import copy
import math

import torch
from torch import Tensor, nn


class MomentumEncoder(nn.Module):
    """An exponential moving average of an encoder: xi <- m xi + (1 - m) theta (BYOL Eq. 1; MoCo Eq. 2).

    It starts as a copy of the encoder and receives no gradient. Buffers (BN statistics) are averaged too.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(source).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode views: (B, 3, H, W) -> (B, d)."""
        z: Tensor = self.encoder(x)
        return z

    @torch.no_grad()
    def update(self, source: nn.Module, momentum: float) -> None:
        """Update the average with `source`. momentum: m in [0, 1]; 0 copies `source`, 1 changes nothing."""
        for ours, theirs in zip(
            self.encoder.state_dict().values(), source.state_dict().values(), strict=True
        ):
            if ours.is_floating_point():
                ours.lerp_(theirs, 1 - momentum)
            else:
                ours.copy_(theirs)  # the number of batches seen by BN


def momentum_at(progress: float, base: float, schedule: str) -> float:
    """Return m at training progress t in [0, 1]: constant, or 1 - (1 - base)(cos(pi t) + 1)/2 (BYOL)."""
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
