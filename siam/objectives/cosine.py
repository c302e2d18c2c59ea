"""Negative cosine similarity, the objective of SimSiam and BYOL (Chen & He 2021, Eq. 1)."""

from torch import Tensor
from torch.nn import functional as F

from siam.parts.objective import Agreement
from siam.settings.method import Method

WORDS = "cosine similarity"


def build(method: Method, images: int) -> Agreement:
    return Agreement(negative_cosine, method.is_symmetric)


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Return D(p, z) = -<p/|p|, z/|z|>, averaged over the batch (Eq. 1): a scalar in [-1, 1].

    p: predictions (B, d). z: targets (B, d).
    """
    return -(F.normalize(p.float(), dim=1) * F.normalize(z.float(), dim=1)).sum(dim=1).mean()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity between each row of a and each row of b: (A, d), (B, d) -> (A, B)."""
    return F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T
