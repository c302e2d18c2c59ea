"""A network whose gradients and statistics are those of all processes."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from siam.processes.agree import average
from siam.processes.batch_norm import synchronize_batch_norm
from siam.processes.gather import world_size


def parallel(network: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
    """`network` with gradients averaged over the processes as they arise, and its BN synchronised.

    The layers of `network` itself are replaced, their parameters and names stay.
    """
    if world_size() == 1:
        return network
    if sync_bn:
        synchronize_batch_norm(network, device)
    # Statistics are the same in all, or their own business: there is nothing to broadcast.
    new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
    options: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


def average_gradients(module: nn.Module) -> None:
    """As DistributedDataParallel does, for a module that it does not wrap."""
    average([p.grad for p in module.parameters() if p.grad is not None])


def average_statistics(network: nn.Module) -> None:
    """Make the BN statistics of all processes one, where they were not synchronised."""
    average([buffer for buffer in network.buffers() if buffer.is_floating_point()])
