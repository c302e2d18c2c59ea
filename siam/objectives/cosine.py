"""Agreement without negatives: the objectives of SimSiam and BYOL (Chen & He 2021, Eq. 1-2 and Sec. 4.5)."""

from torch import Tensor
from torch.nn import functional as F


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) = -<p/|p|, z/|z|>, averaged over the batch (Eq. 1).

    p: predictions (B, d). z: targets (B, d). Returns a scalar in [-1, 1].
    Gradient flows into whatever it is given: stopping it is the network's business.
    """
    return -(F.normalize(p.float(), dim=1) * F.normalize(z.float(), dim=1)).sum(dim=1).mean()
