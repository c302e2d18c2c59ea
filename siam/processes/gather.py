"""Gather batch rows from all processes, with gradients; a no-op with a single process.

Each process holds an equal share of the global batch, in rank order: rank r of W has
rows r B/W to (r + 1) B/W. DistributedDataParallel averages gradients across processes,
so if each process's loss is the mean over its own rows, the result is the gradient of
the mean over the global batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return W, the number of processes in the run; 1 if the run is not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, from 0 to W - 1; 0 if the run is not distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes, with gradients: (B/W, ...) -> (B, ...)."""
    if world_size() == 1:
        return x
    out: Tensor = _AllGather.apply(x)
    return out


def local_shard(x: Tensor) -> Tensor:
    """Return this process's share of the global batch: (B, ...) -> (B/W, ...)."""
    return x.chunk(world_size())[rank()]


class _AllGather(torch.autograd.Function):
    """All-gather whose backward is a reduce-scatter.

    Each process's loss depends on the rows of all processes, so a row's gradient is a
    sum across processes. `torch.distributed.nn.functional.all_gather` is deprecated,
    and its successor is private.
    """

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
