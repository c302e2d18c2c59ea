"""Precise batch norm: estimate running statistics by averaging over many batches.

See Wu & Johnson 2021 ("Rethinking 'Batch' in BatchNorm"), Sec. 3.1. MoCo's published C4
recipes also use it.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[T], forward: Callable[[T], object]) -> None:
    """Replace batch norm's running statistics with averages over `batches`.

    Parameters and the train/eval mode do not change. forward: function that runs
    `network`, which is in training mode, on one batch.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    training = network.training
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    try:
        for batch in batches:
            forward(batch)
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        network.train(training)
