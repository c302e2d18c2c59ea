"""NT-Xent, SimCLR's objective (Chen et al. 2020): contrast within the batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from siam.objectives.cosine import cosines
from siam.parts.objective import Objective
from siam.processes.gather import all_gather, rank
from siam.settings.method import Method

WORDS = "contrast with the batch"


def build(method: Method, images: int) -> "NTXent":
    return NTXent(method.temperature, method.is_symmetric)


class NTXent(Objective):
    """NT-Xent (SimCLR Eq. 1): among all views in the batch, identify the other view of the same image.

    Anchors are the predictions p, and keys are the targets z. Without a predictor and with gradient in both
    branches, these are the same vectors, and the loss is SimCLR's. An anchor's own view is neither its
    positive nor a negative. The batch is global: each process scores its own anchors against all keys.
    """

    def __init__(self, temperature: float, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature, self.symmetric = temperature, symmetric

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the loss, a scalar, for this rank's predictions p and targets z, each (b, d)."""
        z1, z2 = all_gather(torch.cat([z1, z2], dim=1)).chunk(2, dim=1)  # (b, 2d) -> (B, 2d) -> (B, d) each
        n = len(z1)
        anchors = torch.cat([p1, p2] if self.symmetric else [p1])  # (A, d), A = 2b or b
        logits = cosines(anchors, torch.cat([z1, z2])) / self.temperature  # (A, 2B)
        view = torch.arange(len(p1), device=p1.device) + rank() * len(p1)  # (b,) positions of its own keys
        view = torch.cat([view, view + n])[: len(anchors)]  # (A,)
        own = F.one_hot(view, 2 * n).bool()  # (A, 2B)
        return F.cross_entropy(logits.masked_fill(own, -torch.inf), (view + n) % (2 * n))
