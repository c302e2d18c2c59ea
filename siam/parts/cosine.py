"""Agreement without negatives: the objectives of SimSiam and BYOL (Chen & He 2021, Eq. 1-2 and Sec. 4.5)."""

from torch import Tensor
from torch.nn import functional as F


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) = -<p/|p|, z/|z|>, averaged over the batch (Eq. 1).

    p: predictions (B, d). z: targets (B, d). Returns a scalar in [-1, 1].
    Gradient flows into whatever it is given: stopping it is the network's business.
    """
    return -(F.normalize(p.float(), dim=1) * F.normalize(z.float(), dim=1)).sum(dim=1).mean()


def softmax_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) = -softmax(z) . log softmax(p) over the d channels, averaged over the batch (Sec. 4.5).

    p: predictions (B, d). z: targets (B, d). "The output of softmax can be thought of as the
    probabilities of belonging to each of d pseudo-categories."
    """
    return -(z.float().softmax(dim=1) * p.float().log_softmax(dim=1)).sum(dim=1).mean()
