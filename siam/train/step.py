"""One training step: forward, loss, backward, optimizer."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from siam.errors import SettingsError
from siam.network import Network
from siam.parts.objective import Objective
from siam.processes.data_parallel import average_gradients, data_parallel
from siam.settings.pretraining import Settings
from siam.system.device import uses_bf16
from siam.train.optimizer import build_optimizer


class Step:
    """A callable that trains on one batch: `loss, z1 = step(views, images, epoch)`.

    views: 2 tensors, or 4 with doubled sampling, each (B, 3, S, S) on the device. images: dataset indices
    (B,) on the CPU. epoch: counted from 0. Returns the loss (a detached scalar) and z1 (B, d) of
    the first pair of views.
    With `settings.grad_accum` = k, the batch is split into k micro-batches, whose gradients are averaged. The
    caller updates the momentum encoder, because that update depends on training progress. Raises
    SettingsError if the backbone does not support `settings.activation_checkpointing`.
    """

    def __init__(
        self, network: Network, objective: Objective, settings: Settings, device: torch.device
    ) -> None:
        self.objective, self.grad_accum, self.device = objective, settings.grad_accum, device
        self.bf16 = uses_bf16(settings.precision, device)
        self.optimizer = build_optimizer(settings.optimizer, network, objective, settings.batch_size)
        if settings.activation_checkpointing:
            try:
                network.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
            except (AssertionError, AttributeError):  # from timm
                raise SettingsError(
                    f"backbone '{settings.backbone}' does not support activation_checkpointing: turn it off"
                ) from None
        self.network: Any = data_parallel(network, device, settings.sync_bn)
        self.forward: Any = torch.compile(self.network) if settings.compile else self.network

    def __call__(self, views: Sequence[Tensor], images: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        loss, targets = torch.zeros((), device=self.device), []
        for rows, share, gradient_sync in self._micro_batches(len(images)):
            self.objective.before_step(images[rows], epoch)
            with gradient_sync:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    pairs = zip(views[0::2], views[1::2], strict=True)
                    outputs = [self.forward(x1[rows], x2[rows]) for x1, x2 in pairs]  # p1, p2, z1, z2
                micro_loss = share * torch.stack([self.objective(*output) for output in outputs]).mean()
                micro_loss.backward()  # type: ignore[no-untyped-call]
            loss += micro_loss.detach()
            targets.append(outputs[0][2].detach())
        average_gradients(self.objective)
        self.optimizer.step()
        self.objective.after_step()
        return loss, torch.cat(targets)

    def _micro_batches(self, count: int) -> Iterator[tuple[slice, float, AbstractContextManager[None]]]:
        """Yield each micro-batch's rows, share of the batch, and context; only the last syncs gradients."""
        k = self.grad_accum
        for i in range(k):
            start, stop = count * i // k, count * (i + 1) // k
            skip_sync = i + 1 < k and isinstance(self.network, DistributedDataParallel)
            context = self.network.no_sync() if skip_sync else nullcontext()
            yield slice(start, stop), (stop - start) / count, context
