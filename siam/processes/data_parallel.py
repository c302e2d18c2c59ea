"""Data parallelism: average gradients and batch norm statistics across processes."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from siam.processes.agree import all_reduce_mean_
from siam.processes.batch_norm import synchronize_batch_norm
from siam.processes.gather import world_size


def data_parallel(network: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
    """Wrap `network` so that its backward pass averages gradients across processes.

    sync_bn: also synchronize BN layers (see `synchronize_batch_norm`).
    """
    if world_size() == 1:
        return network
    if sync_bn:
        synchronize_batch_norm(network, device)
    # Buffers need no broadcast: they are equal on all ranks, or averaged by
    # `average_statistics`. torch 2.14 renamed the option and deprecates the old name.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


def average_gradients(module: nn.Module) -> None:
    """Average gradients across processes, for modules without `data_parallel`."""
    all_reduce_mean_([p.grad for p in module.parameters() if p.grad is not None])


def average_statistics(network: nn.Module) -> None:
    """Average BN statistics across processes, for networks without synchronized BN."""
    all_reduce_mean_([buffer for buffer in network.buffers() if buffer.is_floating_point()])
