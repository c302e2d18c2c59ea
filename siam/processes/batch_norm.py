"""Batch norm over the global batch, where torch's own SyncBatchNorm has no kernel: on the CPU.

"BN is synchronized across devices" (SimSiam Sec. 3). Forward exchanges mean and variance of each channel,
backward the two sums that the gradient of the statistics needs. Shares may differ in size, as those of
detectors do, whose images and boxes are of any number and size.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siam.processes.gather import world_size


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` with every BN layer synchronised; parameters, buffers and their names stay as they are."""
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # torch's forgets the activations in timm's BN layers

        converted: nn.Module = convert_sync_batchnorm(network)
        return converted
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SyncedBatchNorm(child))
    return network


class SyncedBatchNorm(_BatchNorm):
    """Stands in for `norm`, shares its parameters and buffers, and keeps the activation it may end in."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return self._after(super().forward(input))
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        out, mean, var, n = _normalize(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                share = self.momentum
                if share is None:  # a mean over all batches so far
                    share = 1 / float(self.num_batches_tracked or 1)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * (n / (n - 1)), share)
        return self._after(out)

    def _after(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(x)
        return out


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _normalize(*x: Any) -> Any:
    """Not compiled: inductor (torch 2.14) also sums the gradients of weight and bias over the ranks."""
    return _Normalize.apply(*x)


class _Normalize(torch.autograd.Function):
    """x (b, C, ...) -> normalised x; mean, variance and count over all processes, of each channel (C,)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scratch = torch.zeros(2, x.shape[1])  # its float32 makes the sums float32 where x is bf16
        own_mean, own_var = torch.batch_norm_update_stats(x, scratch[0], scratch[1], 1.0)
        count = torch.full_like(own_mean, x.numel() // x.shape[1])
        own = torch.stack([own_mean, own_var, count])  # (3, C)
        everyones = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(everyones, own)
        means, variances, counts = torch.stack(everyones, dim=1)  # (W, C) each
        n = counts.sum(dim=0)
        share = counts / n
        mean = (share * means).sum(dim=0)
        var = (share * (variances + (means - mean).square())).sum(dim=0)  # Chan et al. 1979
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), n)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, n)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale, n = ctx.saved_tensors  # scale: 1 / standard deviation
        dy = grads[0].contiguous(
            memory_format=torch.channels_last
            if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        # In eval mode its "gradients" of weight and bias are sums over x: of dy times x normalised, of dy.
        _, along, total = torch.ops.aten.native_batch_norm_backward(
            dy, x, torch.ones_like(mean), mean, scale.pow(-2) - ctx.eps, mean, scale, False, ctx.eps,
            [False, True, True],
        )  # fmt: skip
        sums = torch.stack([total, along])  # (2, C), of this process
        grad_weight, grad_bias = (along, total) if weight is not None else (None, None)
        dist.all_reduce(sums)
        gain = scale if weight is None else scale * weight  # (C,)
        slope = -gain * scale * sums[1] / n
        offset = -gain * sums[0] / n - slope * mean
        shape = (1, -1, *[1] * (x.dim() - 2))
        dx = dy * gain.view(shape).to(dy.dtype) + torch.addcmul(
            offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype)
        )
        return dx, grad_weight, grad_bias, None
