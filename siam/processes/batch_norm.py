"""Batch norm over the global batch: "BN is synchronized across devices" (SimSiam, Sec. 3).

torch's SyncBatchNorm runs only on GPUs. SyncedBatchNorm does the same on CPUs, with one
all-gather in the forward pass (each channel's mean and variance) and one all-reduce in
the backward pass. The number of values per channel may differ between processes, as it
does in detectors, where the image size and the number of boxes vary.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siam.processes.gather import all_gather, world_size


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BN layer with a synchronized one.

    Parameters and buffers are kept, including their names.
    """
    if device.type == "cuda":
        # torch's version drops the activations in timm's BN layers
        from timm.layers import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(network)
        return converted
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SyncedBatchNorm(child))
    return network


class SyncedBatchNorm(_BatchNorm):
    """Synchronized BN layer with the parameters, buffers and activation of `norm`."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, value in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
            setattr(self, name, value)
        self.train(norm.training)
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept inputs with any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        together = self.training and world_size() > 1
        out = self._normalize(input) if together else super().forward(input)
        activated: Tensor = self.after(out)
        return activated

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _normalize(self, x: Tensor) -> Tensor:
        """Normalize with the mean and variance of the global batch.

        Not compiled, because Inductor (torch 2.14) would also sum the gradients of
        weight and bias across processes.
        """
        mean, var, n = _global_statistics(x.detach())
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.running_mean is not None and self.running_var is not None:
            share = self.momentum  # None: cumulative mean over all batches
            share = 1 / float(self.num_batches_tracked or 1) if share is None else share
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * (n / (n - 1)), share)
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        bias = torch.zeros_like(mean) if self.bias is None else self.bias
        x, weight, bias = _ThroughStatistics.apply(x, weight, bias, mean, (var + self.eps).rsqrt(), n)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return per-channel mean, variance and count (C,) of all ranks' x (b, C, ...)."""
    dims, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
    count = x.numel() // x.shape[1]
    own_mean = x.sum(dims, dtype=torch.float32) / count
    own_var = (x - own_mean.view(shape)).square_().sum(dims) / count
    own = torch.stack([own_mean, own_var, torch.full_like(own_mean, count)])  # (3, C)
    means, variances, counts = all_gather(own[None]).unbind(dim=1)  # (W, C) each
    n = counts.sum(dim=0)
    share = counts / n
    mean = (share * means).sum(dim=0)
    var = (share * (variances + (means - mean).square())).sum(dim=0)  # Chan et al. 1979
    return mean, var, n


class _ThroughStatistics(torch.autograd.Function):
    """Identity whose backward pass adds the gradient through the batch statistics.

    The batch norm that follows treats the mean and variance as constants. Its bias and
    weight gradients are then the sums of dy and of dy times the normalized x; summed
    across processes, these two gradients yield the gradient through the statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, n: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x, weight, mean, scale, n)  # scale: 1 / standard deviation
        return x.view_as(x), weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, n = ctx.saved_tensors
        dx, grad_weight, grad_bias = grads
        sums = torch.stack([grad_weight, grad_bias])  # (2, C)
        dist.all_reduce(sums)
        slope = -weight * scale.square() * sums[0] / n
        offset = -weight * scale * sums[1] / n - slope * mean
        shape = (-1, *[1] * (x.dim() - 2))
        through = torch.addcmul(offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype))
        return dx + through, grad_weight, grad_bias, None, None, None
