"""The slow copy of an encoder that is the target of BYOL (Grill et al. 2020) and MoCo (He et al. 2020)."""

import copy
import math

import torch
from torch import Tensor, nn


class MomentumEncoder(nn.Module):
    """xi <- m xi + (1 - m) theta (BYOL Eq. 1; MoCo Eq. 2), for weights; buffers (BN statistics) likewise.

    It begins as an exact copy of its source, never as a fresh network, and takes no gradient.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(source).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out

    @torch.no_grad()
    def update(self, source: nn.Module, momentum: float) -> None:
        """Move towards `source`, of which a share `momentum` in [0, 1] stays behind."""
        for slow, fast in zip(self.encoder.state_dict().values(), source.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - momentum)
            else:
                slow.copy_(fast)  # BN's count of batches


def momentum_at(progress: float, base: float, schedule: str) -> float:
    """At `progress` t in [0, 1] of training: constant, or 1 - (1 - base)(cos(pi t) + 1)/2 (BYOL)."""
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
