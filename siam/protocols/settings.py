"""The settings of an evaluation, as one frozen dataclass. Imports no torch, so that help is fast."""

from dataclasses import dataclass
from typing import Literal, get_args

from siam.errors import SettingsError, did_you_mean

Protocol = Literal["knn", "probe", "linear", "finetune"]


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation. A protocol ignores those of others; None selects its own default."""

    protocol: Protocol = "knn"
    """knn: nearest neighbors. probe: logistic regression. linear: the paper's. finetune: all weights."""
    val: str | None = None
    """Labeled images to classify, if they are not in DATA."""
    labels: float = 1.0
    """Fraction of the training labels to use, stratified by class (semi-supervised: 0.01 or 0.1)."""
    untrained: bool = False
    """Evaluate the network at random initialization instead, as a baseline."""
    k: int = 200
    """Neighbors that vote (knn)."""
    temperature: float = 0.1
    """Temperature of the vote's weights (knn)."""
    epochs: int | None = None
    """Passes over the labeled images (linear: 90, finetune: 30)."""
    batch_size: int | None = None
    """Images per step (linear: 4096, finetune: 256)."""
    lr: float | None = None
    """Learning rate of the head for batch 256 (linear: 0.02 with LARS, released code 0.1; finetune: 0.5)."""
    backbone_lr: float | None = None
    """Learning rate of the backbone for batch 256 (finetune: 0.05)."""
    seed: int = 0
    """Random seed: crops, order, and the choice of labels."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    workers: int = -1
    """Worker processes that decode; -1: by the number of cores."""

    def __post_init__(self) -> None:
        known = get_args(Protocol)
        if self.protocol not in known:
            hint = did_you_mean(self.protocol, known)
            raise SettingsError(f"unknown protocol '{self.protocol}'{hint}; there are {', '.join(known)}")
        for name in ("k", "epochs", "batch_size", "temperature", "lr", "backbone_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} must be above 0, got {value}")
        if self.batch_size == 1:
            raise SettingsError("batch_size must be at least 2, got 1")
        if not 0 < self.labels <= 1:
            raise SettingsError(f"labels must be a fraction in (0, 1], got {self.labels:g}")
