"""What the branches agree on: a module (p1, p2, z1, z2) -> scalar, with its own state where it has any."""

from collections.abc import Callable

from torch import Tensor

from siam.methods import Method
from siam.objectives.cosine import negative_cosine
from siam.objectives.cross_entropy import softmax_cross_entropy
from siam.objectives.info_nce import InfoNCE
from siam.objectives.moving_average import MovingAverage
from siam.objectives.nt_xent import NTXent
from siam.objectives.swapped_prediction import SwappedPrediction
from siam.parts.objective import Objective


def build_objective(method: Method, images: int = 0) -> Objective:
    """The module that scores p1, p2, z1, z2, each (B, d), for this method.

    images: in the set; only `moving_average` keeps something for each.
    """
    symmetric = method.symmetry == "symmetric"
    match method.objective:
        case "cosine":
            return Agreement(negative_cosine, symmetric)
        case "cross_entropy":
            return Agreement(softmax_cross_entropy, symmetric)
        case "nt_xent":
            return NTXent(method.temperature, symmetric)
        case "info_nce":
            return InfoNCE(method.dim, method.queue, method.temperature, symmetric)
        case "moving_average":
            return MovingAverage(images, method.dim)
        case "swapped_prediction":
            return SwappedPrediction(method.dim, method.prototypes, method.temperature, symmetric)


class Agreement(Objective):
    """L = D(p1, z2)/2 + D(p2, z1)/2 (Eq. 2-4), or D(p1, z2) alone when asymmetric (Sec. 4.6)."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], symmetric: bool) -> None:
        super().__init__()
        self.distance = distance
        self.symmetric = symmetric

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        if not self.symmetric:
            return self.distance(p1, z2)
        return self.distance(p1, z2) / 2 + self.distance(p2, z1) / 2
