"""A classifier on an encoder, trained with labels: only its head (linear), or all of it (finetune)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siam.data.images import Images
from siam.data.loader import ViewLoader
from siam.data.subset import Subset
from siam.errors import DataError, RunError
from siam.measure.features import center_views, extract
from siam.runs.encoder import Encoder
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings
from siam.train.optimizer import decay


class Classifier(nn.Module):
    """Scores (B, classes) of normalised images (B, 3, H, W); the head begins near zero, as released."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(x).float())
        return scores


def fit(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: ViewLoader,
    labels: Tensor,
    bf16: bool,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Cross-entropy over `loader`'s epochs, cosine decay to 0. Whether `encode` learns is up to its caller.

    labels: of the loader's images (N,). progress: told steps done and the loss. Raises RunError when the
    loss is not finite.
    """
    device, total = loader.device, loader.settings.epochs * loader.steps
    for step, batch in enumerate(loader.batches()):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * decay(step / total)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = encode(batch.views[0])
        truth = labels[torch.from_numpy(batch.indices)].to(device)
        loss = F.cross_entropy(head(features.float()), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None and (step % 10 == 9 or step + 1 == total):
            value = float(loss.detach())
            if not value < float("inf"):
                raise RunError(f"the loss is not finite by step {step + 1}: lower --lr")
            progress(step + 1, value)


def labeled_loader(
    images: Subset, size: int, batch_size: int, epochs: int, seed: int, workers: int, device: torch.device
) -> ViewLoader:
    """One view of each image: a random crop of 8 to 100 % of it, and a flip; no color is changed."""
    views = ViewSettings(size=size, scale=(0.08, 1.0), jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)
    settings = Settings(
        data=images.name, batch_size=min(batch_size, len(images)), epochs=epochs, seed=seed, views=views,
        loader=LoaderSettings(workers=workers),
    )  # fmt: skip
    return ViewLoader(images, settings, device, views=1)


def score_images(
    model: nn.Module, images: Images, size: int, device: torch.device, bf16: bool, workers: int
) -> tuple[Tensor, Tensor]:
    """Scores (M, classes) of the centre views, and the true classes (M,); unreadable images are left out."""
    if images.labels is None:
        raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    scores, which = extract(model, center_views(images, size, workers=workers), device, bf16)
    return scores, torch.from_numpy(images.labels[which])
