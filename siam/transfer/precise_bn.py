"""Precise batch norm: running statistics as the mean over batches, not a moving average of the last ones.

Wu & Johnson 2021 ("Rethinking 'Batch' in BatchNorm"), Sec. 3.1; so do the published C4 recipes (MoCo's).
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[T], forward: Callable[[T], object]) -> None:
    """Let every running statistic be its mean over `batches`. No parameter changes, nor the mode.

    forward: passes one batch through the network in training mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    training = network.training
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    try:
        for batch in batches:
            forward(batch)
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        network.train(training)
