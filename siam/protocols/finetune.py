"""Fine-tuning: the whole network learns from labels, the backbone at a lower rate than the new head.

From all labels, or from a small fraction of them (semi-supervised evaluation: SimCLR, Chen et al. 2020, App.
B.5; BYOL, Grill et al. 2020, Sec. 4). SGD with Nesterov momentum 0.9, cosine decay, no weight decay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from siam.data.images import Images
from siam.data.subset import Subset
from siam.protocols.classifier import ClassifierSettings, Compute, Progress, Training
from siam.runs.encoder import Encoder


@dataclass(frozen=True)
class FinetuneSettings(ClassifierSettings):
    """Settings of fine-tuning; learning rates are for a batch of 256."""

    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.5
    backbone_lr: float = 0.05


def finetune(
    encoder: Encoder,
    train: Subset,
    val: Images,
    settings: FinetuneSettings,
    compute: Compute,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Return scores (M, classes) of the validation images and their classes (M,).

    Trains `encoder` in place.
    """
    training = Training(encoder.requires_grad_(True), train, settings, compute)
    model, scale = training.model.train(), training.lr_scale
    groups = [
        {"params": list(encoder.parameters()), "peak_lr": settings.backbone_lr * scale},
        {"params": list(model.head.parameters()), "peak_lr": settings.lr * scale},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
    training.fit(encoder, optimizer, progress)
    return training.score(val)
