"""Fine-tuning: the whole network learns from labels, the backbone slower than the new head.

Of all labels, or of a small share of them (semi-supervised evaluation: SimCLR, Chen et al. 2020, App. B.5;
BYOL, Grill et al. 2020, Sec. 4). SGD with Nesterov momentum 0.9, cosine decay, no weight decay.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from siam.data.images import Images
from siam.data.subset import Subset
from siam.protocols.classifier import Classifier, fit, labeled_loader, score_images
from siam.runs.encoder import Encoder


@dataclass(frozen=True)
class FinetuneSettings:
    """Rates are for a batch of 256; those used are lr x batch / 256."""

    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.5
    """Of the head."""
    backbone_lr: float = 0.05
    seed: int = 0


def finetune(
    encoder: Encoder,
    train: Subset,
    val: Images,
    settings: FinetuneSettings,
    device: torch.device,
    bf16: bool,
    workers: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (M, classes) of the validation images and their classes (M,). The encoder itself changes."""
    assert train.labels is not None
    torch.manual_seed(settings.seed)
    model = Classifier(encoder.requires_grad_(True), len(train.classes)).to(device).train()
    loader = labeled_loader(
        train, encoder.image_size, settings.batch_size, settings.epochs, settings.seed, workers, device
    )
    scale = loader.settings.batch_size / 256
    groups = [
        {"params": list(encoder.parameters()), "peak_lr": settings.backbone_lr * scale},
        {"params": list(model.head.parameters()), "peak_lr": settings.lr * scale},
    ]
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=True)
    total = settings.epochs * loader.steps
    fit(
        encoder, model.head, optimizer, loader, torch.from_numpy(train.labels), bf16,
        None if progress is None else lambda step, loss: progress(step, total, loss),
    )  # fmt: skip
    model.eval()
    return score_images(model, val, encoder.image_size, device, bf16, workers)
