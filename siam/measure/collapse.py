"""Has the representation collapsed? Two numbers that need no labels, and what they mean.

std x sqrt(d): the per-channel deviation of z/|z|, times sqrt(d). It is 0 when all images get one vector and
1 when directions are spread evenly (SimSiam Sec. 4.1 and Fig. 2: "if z has a zero-mean isotropic Gaussian
distribution, the std of z/|z| is 1/sqrt(d)"). Effective rank: how many dimensions carry the features
(RankMe, Garrido et al. 2023, Eq. 1), which tells partial collapse, where only some dimensions die
(Li, Efros & Pathak 2022).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from siam.methods import Method

Verdict = Literal["healthy", "at risk", "collapsed"]

COLLAPSED_STD = 0.1
AT_RISK_STD = 0.6
AT_RISK_RANK = 8.0
"""Effective rank of z below which it is too little for anything but a handful of kinds."""


def embedding_std(z: Tensor) -> Tensor:
    """Mean over channels of the std over images of z/|z|, times sqrt(d). z: (B, d). Returns a scalar."""
    z = F.normalize(z.detach().float(), dim=1)
    return z.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values. features: (N, D). Between 1 and min(N, D)."""
    s = torch.linalg.svdvals(features.double())
    p = s / s.sum().clamp(min=torch.finfo(s.dtype).tiny)
    return float(torch.exp(torch.special.entr(p).sum()))


def verdict(std: float, floor: float = 0.0, rank: float | None = None, most: int = 2048) -> Verdict:
    """What the numbers say: 'healthy', 'at risk' (some dimensions died), or 'collapsed'.

    std: of `embedding_std`, which sees channels die. floor: what it reads at full collapse, see
    `std_at_collapse`; where that is near 1, in batches of 2 or 3, std says nothing, and only the rank does.
    rank: effective rank of z, which sees directions die that no channel shows. most: what that rank could be.
    """
    tells = floor < 0.9
    if math.isnan(std) or (tells and std < floor + COLLAPSED_STD * (1 - floor)):
        return "collapsed"
    low_rank = rank is not None and rank < min(AT_RISK_RANK, most / 4)
    return "at risk" if std < AT_RISK_STD or low_rank else "healthy"


def std_at_collapse(method: Method, batch_size: int) -> float:
    """The least std x sqrt(d) that a batch can have.

    Where BN ends the projector and does not shift, z has mean 0 over the batch: at full collapse all images
    but one share a vector, and that one has the opposite: 2 sqrt(B - 1) / B. Elsewhere it is 0.
    """
    centred = method.batch_norm in ("default", "all") and not method.output_affine
    return 2 * (batch_size - 1) ** 0.5 / batch_size if centred else 0.0


ADVICE = {
    "collapsed": (
        "every image gets nearly the same vector. Keep method.target 'stop_gradient' or 'momentum' with a "
        "predictor, keep batch norm in the heads, and lower optimizer.lr."
    ),
    "at risk": (
        "some dimensions have died (partial collapse), as happens when the network is small for the set or d "
        "is large for a short run. Try a wider or deeper backbone, a smaller method.dim, smaller batches "
        "(more steps), or a lower optimizer.lr."
    ),
}
