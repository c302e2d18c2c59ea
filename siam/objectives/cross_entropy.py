"""Cross-entropy between two softmaxes, instead of cosine similarity (Chen & He 2021, Sec. 4.5)."""

from torch import Tensor

from siam.parts.objective import Agreement
from siam.settings.method import Method

WORDS = "softmax cross-entropy"


def build(method: Method, images: int) -> Agreement:
    return Agreement(softmax_cross_entropy, method.is_symmetric)


def softmax_cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """Return D(p, z) = -softmax(z) . log softmax(p) over the d channels, averaged over the batch (Sec. 4.5).

    p: predictions (B, d). z: targets (B, d). "The output of softmax can be thought of as the
    probabilities of belonging to each of d pseudo-categories." The result is a scalar.
    """
    return -(z.float().softmax(dim=1) * p.float().log_softmax(dim=1)).sum(dim=1).mean()
