"""What the processes of a run exchange within a step; a process on its own exchanges nothing.

Every process holds an equal share of the global batch, in the order of the ranks: rank r of W has rows
r B/W to (r + 1) B/W. Gradients are averaged over the processes afterwards (by DistributedDataParallel), so a
loss that is a mean over a process's own rows is, on average, the mean over the global batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 alone."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, with gradient: (B/W, ...) -> (B, ...)."""
    if world_size() == 1:
        return x
    out: Tensor = _Gather.apply(x)
    return out


def local_shard(x: Tensor) -> Tensor:
    """This process's share of the global batch: (B, ...) -> (B/W, ...)."""
    return x.chunk(world_size())[rank()]


class _Gather(torch.autograd.Function):
    """Each process's loss depends on the rows of all: a row's gradient is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(world_size() * len(x), *x.shape[1:])
        dist.all_gather(list(out.chunk(world_size())), x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        shares = [share.contiguous() for share in grad.chunk(world_size())]
        own = torch.empty_like(shares[rank()])
        dist.reduce_scatter(own, shares)
        return own
