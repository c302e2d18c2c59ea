"""What every objective is: agreement of two views as a number, and perhaps a memory of earlier steps."""

from torch import Tensor, nn


class Objective(nn.Module):
    """(p1, p2, z1, z2), each (B, d), -> scalar; the lower, the better they agree."""

    def begin(self, images: Tensor) -> None:
        """Before each call in training. images: the indices (B,) of the batch in the set, on the CPU."""

    def end(self) -> None:
        """After each step of the optimizer: the time to take what was seen into memory."""
