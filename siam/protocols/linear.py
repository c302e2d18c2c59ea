"""Linear evaluation as published: what a frozen representation holds that a hyperplane can read.

"We train a supervised linear classifier on frozen features" (SimSiam, Sec. 3 and App. A): LARS, base lr
0.02 x batch / 256 (the released code: 0.1), batch 4096, 90 epochs, momentum 0.9, no weight decay, cosine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.optim import Lars
from torch import Tensor

from siam.data.images import Images
from siam.data.subset import Subset
from siam.errors import RunError
from siam.protocols.classifier import Classifier, fit, labeled_loader, score_images
from siam.runs.encoder import Encoder


@dataclass(frozen=True)
class LinearSettings:
    """The published ones by default."""

    epochs: int = 90
    batch_size: int = 4096
    lr: float = 0.02
    """For a batch of 256; the rate used is lr x batch / 256."""
    seed: int = 0


def linear(
    encoder: Encoder,
    train: Subset,
    val: Images,
    settings: LinearSettings,
    device: torch.device,
    bf16: bool,
    workers: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (M, classes) of the validation images and their classes (M,).

    Random crops and flips to train on, centre views to test. Raises RunError should anything frozen move.
    """
    assert train.labels is not None
    torch.manual_seed(settings.seed)
    encoder.eval().requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    model = Classifier(encoder, len(train.classes)).to(device)
    loader = labeled_loader(
        train, encoder.image_size, settings.batch_size, settings.epochs, settings.seed, workers, device
    )
    rate = settings.lr * loader.settings.batch_size / 256
    groups = [{"params": list(model.head.parameters()), "peak_lr": rate}]
    optimizer = Lars(groups, lr=rate, momentum=0.9, weight_decay=0.0, always_adapt=True)
    total = settings.epochs * loader.steps

    fit(
        torch.no_grad()(encoder), model.head, optimizer, loader, torch.from_numpy(train.labels), bf16,
        None if progress is None else lambda step, loss: progress(step, total, loss),
    )  # fmt: skip

    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    if moved:
        raise RunError(f"linear evaluation moved frozen weights: {', '.join(moved[:3])}")
    model.eval()
    return score_images(model, val, encoder.image_size, device, bf16, workers)
