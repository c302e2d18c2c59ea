"""One step of the optimizer: two views through the network, agreement, gradients, new weights."""

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
    """step(views, images, epoch) trains on a batch.

    views: 2, or 4 with doubled sampling, each (B, 3, S, S) on the device. images: their indices (B,) in the
    set, on the CPU. epoch: from 0. Returns the loss, a scalar without gradient, and z1 (B, d) of the first
    two views.
    With `settings.grad_accum` k, parts of B/k images pass one after another and their gradients are averaged.
    The momentum encoder is the caller's to update, who knows how far training has come. Raises SettingsError
    for a backbone that does not support `settings.activation_checkpointing`.
    """

    def __init__(
        self, network: Network, objective: Objective, settings: Settings, device: torch.device
    ) -> None:
        self.objective, self.parts, self.device = objective, settings.grad_accum, device
        self.bf16 = uses_bf16(settings.precision, device)
        self.optimizer = build_optimizer(settings.optimizer, network, objective, settings.batch_size)
        if settings.activation_checkpointing:
            try:
                network.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
            except (AssertionError, AttributeError):  # timm's way of saying so
                raise SettingsError(
                    f"activation_checkpointing: {settings.backbone} does not support it"
                ) from None
        self.network: Any = data_parallel(network, device, settings.sync_bn)
        self.forward: Any = torch.compile(self.network) if settings.compile else self.network

    def __call__(self, views: Sequence[Tensor], images: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad()
        loss, targets = torch.zeros((), device=self.device), []
        for part, share, exchange in self._parts(len(images)):
            self.objective.before_step(images[part], epoch)
            with exchange:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    pairs = zip(views[0::2], views[1::2], strict=True)
                    outputs = [self.forward(x1[part], x2[part]) for x1, x2 in pairs]  # p1, p2, z1, z2
                its = share * torch.stack([self.objective(*output) for output in outputs]).mean()
                its.backward()  # type: ignore[no-untyped-call]
            loss += its.detach()
            targets.append(outputs[0][2].detach())
        average_gradients(self.objective)
        self.optimizer.step()
        self.objective.after_step()
        return loss, torch.cat(targets)

    def _parts(self, count: int) -> Iterator[tuple[slice, float, AbstractContextManager[None]]]:
        """Which images, their share of the batch, and a context: gradients are exchanged after the last."""
        for i in range(self.parts):
            start, stop = count * i // self.parts, count * (i + 1) // self.parts
            quiet = i + 1 < self.parts and isinstance(self.network, DistributedDataParallel)
            yield (
                slice(start, stop),
                (stop - start) / count,
                self.network.no_sync() if quiet else nullcontext(),
            )
