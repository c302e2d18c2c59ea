"""The base of every objective, and the symmetrized agreement that those without state share."""

from collections.abc import Callable

from torch import Tensor, nn


class Objective(nn.Module):
    """(p1, p2, z1, z2), each (B, d), -> scalar: the lower, the better the two views agree.

    p: predictions, z: targets. Gradient flows into all of them: stopping it is the network's business. State
    belongs in buffers and parameters: checkpoints hold both, and the optimizer trains the parameters.
    """

    def before_step(self, images: Tensor, epoch: int) -> None:
        """Prepare for a call in training. images: indices (B,) in the set, on the CPU. epoch: from 0.

        With gradient accumulation it is called for each micro-batch.
        """

    def after_step(self) -> None:
        """Update the state, once the optimizer has taken its step."""


class Agreement(Objective):
    """L = D(p1, z2)/2 + D(p2, z1)/2 (SimSiam Eq. 2-4), or D(p1, z2) alone when asymmetric (Sec. 4.6)."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], symmetric: bool) -> None:
        """distance: D, (B, d), (B, d) -> scalar."""
        super().__init__()
        self.distance, self.symmetric = distance, symmetric

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        if not self.symmetric:
            return self.distance(p1, z2)
        return self.distance(p1, z2) / 2 + self.distance(p2, z1) / 2
