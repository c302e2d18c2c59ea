"""Fine-tune the encoder and a linear classifier on labeled images.

With a small fraction of the labels, this is semi-supervised evaluation (SimCLR, Chen et
al. 2020, App. B.5; BYOL, Grill et al. 2020, Sec. 4). The optimizer is SGD with Nesterov
momentum 0.9, cosine decay and no weight decay; the backbone has a lower learning rate
than the head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from siam.data.images import Images
from siam.data.subset import Subset
from siam.protocols.classifier import ClassifierSettings, Compute, Lost, Progress, Training
from siam.runs.encoder import Encoder


@dataclass(frozen=True)
class FinetuneSettings(ClassifierSettings):
    """Fine-tuning settings; learning rates are for a batch size of 256."""

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
    lost: Lost | None = None,
) -> tuple[Tensor, Tensor]:
    """Fine-tune `encoder` in place and score the validation images.

    lost: filled with the unreadable images.
    Returns scores (M, classes) and true classes (M,).
    """
    training = Training(encoder.requires_grad_(True), train, settings, compute)
    model, scale = training.model.train(), training.lr_scale
    groups = [
        {"params": list(encoder.parameters()), "peak_lr": settings.backbone_lr * scale},
        {"params": list(model.head.parameters()), "peak_lr": settings.lr * scale},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=True)
    training.fit(encoder, optimizer, progress)
    return training.score(val, lost)
