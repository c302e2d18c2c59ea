"""The classifier and training loop shared by linear evaluation and fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siam.data.images import Images
from siam.data.loader import ViewLoader
from siam.data.subset import Subset
from siam.data.unreadable import Unreadable, unreadable_among
from siam.errors import DataError, Diverged
from siam.measure.features import center_views, extract
from siam.runs.encoder import Encoder
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings
from siam.train.optimizer import decay

Progress = Callable[[int, int, float], None]
"""A callback: progress(completed steps, total steps, loss)."""

LR_BATCH = 256
"""Reference batch size: the actual learning rate is lr x batch_size / 256."""

_REPORT_EVERY = 10  # steps; not every step, because reading the loss synchronizes the device


@dataclass(frozen=True)
class Compute:
    """Device, precision and number of decoding workers for an evaluation."""

    device: torch.device
    bf16: bool = False
    workers: int = 0


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings shared by linear evaluation and fine-tuning."""

    epochs: int
    batch_size: int
    lr: float
    """Learning rate of the head for a batch size of 256; scaled by batch_size / 256."""
    seed: int = 0


@dataclass(frozen=True)
class Lost:
    """Training and validation images that could not be read."""

    train: Unreadable = field(default_factory=Unreadable)
    val: Unreadable = field(default_factory=Unreadable)


class Classifier(nn.Module):
    """An encoder with a linear head: normalized images (B, 3, H, W) -> scores (B, classes).

    The head is initialized near zero, as in the released code.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(x).float())
        return scores


class Training:
    """A supervised training run for linear evaluation or fine-tuning.

    lr_scale: batch size / 256, the factor by which learning rates are scaled.
    """

    def __init__(
        self, encoder: Encoder, images: Subset, settings: ClassifierSettings, compute: Compute
    ) -> None:
        assert images.labels is not None
        torch.manual_seed(settings.seed)
        self.compute = compute
        self.labels = torch.from_numpy(images.labels)
        self.model = Classifier(encoder, len(images.classes)).to(compute.device)
        self.loader = labeled_loader(images, encoder.image_size, settings, compute)
        self.lr_scale = self.loader.settings.batch_size / LR_BATCH

    def fit(
        self,
        encode: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        progress: Progress | None = None,
    ) -> None:
        """Train with cross-entropy loss for all epochs of the loader.

        The learning rate of each parameter group decays from `peak_lr` to 0 on a cosine
        schedule. encode: the encoder, optionally wrapped in no_grad. Raises Diverged if
        the loss is no longer finite.
        """
        device, total = self.compute.device, self.loader.order.total_steps
        for step, batch in enumerate(self.loader.batches()):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * decay(step / total)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.compute.bf16):
                features = encode(batch.views[0])
            truth = self.labels[torch.from_numpy(batch.indices)].to(device)
            loss = F.cross_entropy(self.model.head(features.float()), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None and ((step + 1) % _REPORT_EVERY == 0 or step + 1 == total):
                value = float(loss.detach())
                if not value < float("inf"):
                    raise Diverged(f"the loss is no longer finite at step {step + 1}: lower --lr")
                progress(step + 1, total, value)

    def score(self, images: Images, lost: Lost | None = None) -> tuple[Tensor, Tensor]:
        """Return scores (M, classes) and labels (M,) of the readable images.

        The images are center-cropped. lost: filled with the unreadable ones, and with
        those of the training.
        """
        if images.labels is None:
            raise DataError(f"{images.name} has no labels: put its images into one folder per class")
        views = center_views(images, self.model.encoder.crop, workers=self.compute.workers)
        scores, indices = extract(self.model, views, self.compute.device, self.compute.bf16)
        if lost is not None:
            lost.train.update(self.loader.unreadable)
            lost.val.update(unreadable_among(images, np.setdiff1d(np.arange(len(images)), indices)))
        return scores, torch.from_numpy(images.labels[indices])


def labeled_loader(images: Subset, size: int, settings: ClassifierSettings, compute: Compute) -> ViewLoader:
    """Build a loader that yields one view per image.

    Each view is a random crop (8 to 100 % of the area) with a random horizontal flip.
    """
    views = ViewSettings(size=size, scale=(0.08, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    loading = Settings(
        data=images.name, batch_size=min(settings.batch_size, len(images)), epochs=settings.epochs,
        seed=settings.seed, views=views, loader=LoaderSettings(workers=compute.workers),
    )  # fmt: skip
    return ViewLoader(images, loading, compute.device, views=1)
