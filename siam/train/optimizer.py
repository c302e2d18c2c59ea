"""SGD and LARS with cosine learning-rate decay, except that the predictor's rate may stay constant."""

import math
from typing import Any

import torch
from timm.optim import Lars
from torch import nn

from siam.settings.pretraining import OptimizerSettings


def build_optimizer(
    settings: OptimizerSettings, network: nn.Module, objective: nn.Module, batch_size: int
) -> torch.optim.Optimizer:
    """Build the optimizer, with a peak learning rate of lr x batch_size / 256 (Sec. 3).

    The parameter groups are named encoder, predictor and objective; LARS splits each in two.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups = {
        "encoder": [p for name, p in named if not name.startswith("predictor.")],
        "predictor": [p for name, p in named if name.startswith("predictor.")],
        "objective": list(objective.parameters()),
    }
    lr = settings.lr * batch_size / 256
    param_groups = [{"params": ps, "name": name, "peak_lr": lr} for name, ps in groups.items() if ps]
    m, wd = settings.momentum, settings.weight_decay
    if settings.name == "lars":
        halves = [half for group in param_groups for half in _split_for_lars(group) if half["params"]]
        lars: torch.optim.Optimizer = Lars(halves, lr=lr, momentum=m, weight_decay=wd)
        return lars
    return torch.optim.SGD(param_groups, lr=lr, momentum=m, weight_decay=wd, fused=True)


def _split_for_lars(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a parameter group in two: weights, then biases and batch-norm parameters.

    The second part gets neither weight decay nor LARS's adaptive rate (SimCLR App. B.9; BYOL Sec. 3.3).
    timm's LARS does not adapt parameters without weight decay unless `always_adapt` is set.
    """
    weights = [p for p in group["params"] if p.ndim > 1]
    rest = [p for p in group["params"] if p.ndim <= 1]
    return {**group, "params": weights, "always_adapt": True}, {**group, "params": rest, "weight_decay": 0.0}


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, epoch: float, epochs: float
) -> float:
    """Set each parameter group's learning rate and return the encoder's.

    epoch: number of epochs completed, including fractions. The rate warms up linearly from 0, then decays to
    0 along a cosine. The predictor's rate is constant by default, because h "should adapt to the latest
    representations" (Sec. 4.2).
    """
    warm = settings.warmup_epochs
    rise = min(1.0, epoch / warm) if warm > 0 else 1.0
    progress = (epoch - warm) / max(epochs - warm, 1e-9) if epoch >= warm else 0.0
    for group in optimizer.param_groups:
        constant = group["name"] == "predictor" and settings.predictor_lr == "constant"
        group["lr"] = group["peak_lr"] * rise * (1.0 if constant else decay(progress))
    return float(optimizer.param_groups[0]["lr"])


def decay(progress: float) -> float:
    """Return the cosine decay factor, which falls from 1 at progress 0 to 0 at progress 1."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2
