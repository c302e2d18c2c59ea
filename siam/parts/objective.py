"""The base class for objectives, and the symmetrized loss shared by the objectives built on a distance D."""

from collections.abc import Callable

from torch import Tensor, nn


class Objective(nn.Module):
    """A loss on two views: (p1, p2, z1, z2), each (B, d), -> scalar; lower means better agreement.

    p: predictions. z: targets. Stop-gradient is applied by the network. Subclasses keep state in buffers and
    parameters, which are saved in checkpoints; the optimizer trains the parameters.
    """

    def before_step(self, images: Tensor, epoch: int) -> None:
        """Prepare for the forward pass over the next micro-batch.

        images: dataset indices (B,), on the CPU. epoch: counted from 0.
        """

    def after_step(self) -> None:
        """Update the objective's state after the optimizer step."""


class Agreement(Objective):
    """L = D(p1, z2)/2 + D(p2, z1)/2 (SimSiam Eq. 2-4), or D(p1, z2) if asymmetric (Sec. 4.6).

    distance: the function D, (B, d), (B, d) -> scalar.
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], symmetric: bool) -> None:
        super().__init__()
        self.distance, self.symmetric = distance, symmetric

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        if not self.symmetric:
            return self.distance(p1, z2)
        return self.distance(p1, z2) / 2 + self.distance(p2, z1) / 2
