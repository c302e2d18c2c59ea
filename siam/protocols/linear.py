"""Linear evaluation as published: train a linear classifier on frozen features.

"We train a supervised linear classifier on frozen features" (SimSiam, Sec. 3 and App. A): LARS, base lr
0.02 (released code: 0.1) scaled by batch / 256, batch size 4096, 90 epochs, momentum 0.9, no weight decay,
cosine decay.
"""

from dataclasses import dataclass

import torch
from timm.optim import Lars
from torch import Tensor

from siam.data.images import Images
from siam.data.subset import Subset
from siam.errors import RunError
from siam.protocols.classifier import ClassifierSettings, Compute, Lost, Progress, Training
from siam.runs.encoder import Encoder


@dataclass(frozen=True)
class LinearSettings(ClassifierSettings):
    """Linear evaluation settings, with the published defaults."""

    epochs: int = 90
    batch_size: int = 4096
    lr: float = 0.02


def linear(
    encoder: Encoder,
    train: Subset,
    val: Images,
    settings: LinearSettings,
    compute: Compute,
    progress: Progress | None = None,
    lost: Lost | None = None,
) -> tuple[Tensor, Tensor]:
    """Train a linear classifier on frozen features and score the validation images.

    Trains on random crops and flips, evaluates on center crops. lost: filled with the unreadable images.
    Returns scores (M, classes) and true classes (M,). Raises RunError if the encoder's weights change.
    """
    encoder.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    training = Training(encoder, train, settings, compute)
    lr = settings.lr * training.lr_scale
    head = [{"params": list(training.model.head.parameters()), "peak_lr": lr}]
    optimizer = Lars(head, lr=lr, momentum=0.9, weight_decay=0.0, always_adapt=True)

    training.fit(torch.no_grad()(encoder), optimizer, progress)

    changed = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        raise RunError(f"linear evaluation changed frozen weights: {', '.join(changed[:3])}")
    return training.score(val, lost)
