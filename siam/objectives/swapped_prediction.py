"""Swapped prediction of cluster assignments, SwAV's objective (Caron et al. 2020)."""

import torch
from torch import Tensor, nn

from siam.objectives.cosine import cosines
from siam.parts.objective import Objective
from siam.processes.gather import all_gather, local_shard
from siam.settings.method import Method

WORDS = "swapped prediction of clusters"


def build(method: Method, images: int) -> "SwappedPrediction":
    return SwappedPrediction(method.dim, method.prototypes, method.temperature, method.is_symmetric)


class SwappedPrediction(Objective):
    """Predict the cluster assignment of one view from the other view (SwAV Eq. 2).

    Prototypes are unit vectors (normalized when used). Assignments belong to the target branch: they carry
    gradient only if the targets do. Assignments are balanced over the global batch: each process
    computes them for all images and keeps those of its own images.
    """

    def __init__(self, dim: int, prototypes: int, temperature: float, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature, self.symmetric = temperature, symmetric
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim))  # (K, d)

    def before_step(self, images: Tensor, epoch: int) -> None:
        """Freeze the prototypes during the first epoch, as in SwAV."""
        self.requires_grad_(epoch > 0)

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the loss, a scalar, for predictions p and targets z, each (b, d)."""
        if not self.symmetric:
            return self.swapped(p1, z2)
        return self.swapped(p1, z2) / 2 + self.swapped(p2, z1) / 2

    def swapped(self, p: Tensor, z: Tensor) -> Tensor:
        """Return the cross-entropy between z's cluster assignment and the one predicted from p.

        p, z: (b, d).
        """
        targets = self.prototypes if z.requires_grad else self.prototypes.detach()
        assignment = local_shard(sinkhorn(cosines(all_gather(z), targets)))  # (B, d) -> (B, K) -> (b, K)
        predicted = (cosines(p, self.prototypes) / self.temperature).log_softmax(dim=1)  # (b, K)
        return -(assignment * predicted).sum(dim=1).mean()


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Convert scores to soft cluster assignments, balanced across clusters: (B, K) -> (B, K).

    Sinkhorn-Knopp (Cuturi 2013; SwAV Eq. 3-5) in log space, out of place and differentiable. Rows of the
    result sum to 1; with more iterations, column sums approach B/K.
    """
    log_q = scores.float() / epsilon
    for _ in range(iterations):
        log_q = log_q.log_softmax(dim=0)  # each cluster gets an equal share of the batch
        log_q = log_q.log_softmax(dim=1)  # each image has a total weight of 1
    return log_q.exp()
