"""The training steps and loops that benchmarks compare: ours, and those of the published code."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siam.data.kinds import IMAGE_SUFFIXES
from siam.network import Network
from siam.objectives import build_objective
from siam.recipes import starting_point
from siam.settings.pretraining import Settings
from siam.train.step import Step

TrainOn = Callable[[Tensor, Tensor], Tensor]
"""Trains on two views (B, C, H, W). Returns the loss, still on the device."""


def settings_for(backbone: str, size: int, batch: int, method: str = "simsiam") -> Settings:
    """Return the settings that `siam pretrain` starts from for images of this size."""
    base = starting_point(None, method, "", size, size=10**6)
    return replace(
        base, backbone=backbone, batch_size=batch, epochs=10**6, views=replace(base.views, size=size)
    )


def our_step(settings: Settings, device: torch.device) -> TrainOn:
    """Return the step of `siam pretrain`: bf16 where the machine has it, channels last, fused optimizer."""
    torch.manual_seed(0)
    network = Network(settings.method, settings.backbone, settings.views.size)
    network.to(device, memory_format=torch.channels_last)
    train_on = Step(network, build_objective(settings.method).to(device), settings, device)
    images = torch.arange(settings.batch_size)
    return lambda x1, x2: train_on((x1, x2), images, epoch=1)[0]


def plain_device(name: str) -> torch.device:
    """Return the device as common scripts set it up, with cuDNN's benchmark mode."""
    torch.backends.cudnn.benchmark = True
    return torch.device(name)


def published_step(settings: Settings, device: torch.device) -> TrainOn:
    """Return the released code's step: float32 (TF32 convolutions on a GPU, as default), NCHW, plain SGD."""
    torch.manual_seed(0)
    network = Network(settings.method, settings.backbone, settings.views.size).to(device)
    objective = build_objective(settings.method).to(device)
    parameters = [p for p in (*network.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-4)

    def step(x1: Tensor, x2: Tensor) -> Tensor:
        loss: Tensor = objective(*network(x1, x2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        return loss.detach()

    return step


def random_views(
    settings: Settings, device: torch.device, layout: torch.memory_format
) -> tuple[Tensor, Tensor]:
    """Return two random views on the device, (B, 3, S, S) each."""
    shape = (settings.batch_size, 3, settings.views.size, settings.views.size)
    x1, x2 = (torch.randn(shape, device=device).contiguous(memory_format=layout) for _ in range(2))
    return x1, x2


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class TwoCrops(Dataset[Any]):
    """A flat folder of photographs, two views of each, as in the released code."""

    def __init__(self, folder: Path, transform: Callable[[Image.Image], Any], both: bool) -> None:
        """both: True if the transform returns both views itself."""
        self.files = sorted(f for f in folder.iterdir() if f.name.lower().endswith(IMAGE_SUFFIXES))
        self.transform, self.both = transform, both

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        with self.files[i].open("rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image) if self.both else [self.transform(image), self.transform(image)]


def published_batches(
    dataset: TwoCrops, batch: int, workers: int, device: torch.device
) -> Iterator[list[Tensor]]:
    """Yield batches of views on the device, endlessly."""
    loader = DataLoader(
        dataset, batch, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda", drop_last=True
    )
    while True:
        for views in loader:
            yield [x.to(device, non_blocking=True) for x in views]
