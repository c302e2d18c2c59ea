"""Detect collapse without labels, from two measures of the embeddings.

std x sqrt(d): the per-channel standard deviation of z/|z|, times sqrt(d). It is 0 if all images have the same
embedding and 1 if the directions are evenly spread (SimSiam Sec. 4.1 and Fig. 2: "if z has a zero-mean
isotropic Gaussian distribution, the std of z/|z| is 1/sqrt(d)"). Effective rank: the number of dimensions
that the features span (RankMe, Garrido et al. 2023, Eq. 1). It detects partial collapse, where only some
dimensions die (Li, Efros & Pathak 2022).
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
"""Effective rank of z below which z can separate only a handful of classes."""


def embedding_std(z: Tensor) -> Tensor:
    """Return the std of z/|z| over the images, averaged over channels, times sqrt(d): (B, d) -> scalar."""
    z = F.normalize(z.detach().float(), dim=1)
    return z.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """Return the effective rank of features (N, D), between 1 and min(N, D).

    This is the exponential of the entropy of the normalized singular values.
    """
    s = torch.linalg.svdvals(features.double())
    p = s / s.sum().clamp(min=torch.finfo(s.dtype).tiny)
    return float(torch.exp(torch.special.entr(p).sum()))


def verdict(std: float, floor: float = 0.0, rank: float | None = None, max_rank: int = 2048) -> Verdict:
    """Return 'healthy', 'at risk' (some dimensions have died) or 'collapsed'.

    std: `embedding_std` of z; detects dead channels. floor: `std_at_collapse`, the std at full collapse; a
    floor near 1, as for batches of 2 or 3, makes std useless for detecting full collapse. rank: effective
    rank of z; detects dead directions that no single channel shows. max_rank: upper bound on the rank.
    """
    informative = floor < 0.9
    if math.isnan(std) or (informative and std < floor + COLLAPSED_STD * (1 - floor)):
        return "collapsed"
    low_rank = rank is not None and rank < min(AT_RISK_RANK, max_rank / 4)
    return "at risk" if std < AT_RISK_STD or low_rank else "healthy"


def std_at_collapse(method: Method, batch_size: int) -> float:
    """Return the value of std x sqrt(d) for a fully collapsed batch.

    If the projector ends in BN without a shift, z has mean 0 over the batch. At full collapse, all images but
    one then share a direction, and the remaining image has the opposite direction, so the std is
    2 sqrt(B - 1) / B. Otherwise the std is 0.
    """
    centered = method.batch_norm in ("default", "all") and not method.output_affine
    return 2 * (batch_size - 1) ** 0.5 / batch_size if centered else 0.0


ADVICE = {
    "collapsed": (
        "all images have nearly the same embedding. Keep method.target 'stop_gradient' or 'momentum' with a "
        "predictor, keep batch norm in the heads, and lower optimizer.lr."
    ),
    "at risk": (
        "some dimensions have died (partial collapse), as happens when the network is small for the dataset "
        "or d is large for a short run. Try a wider or deeper backbone, a smaller method.dim, smaller "
        "batches (more steps), or a lower optimizer.lr."
    ),
}
