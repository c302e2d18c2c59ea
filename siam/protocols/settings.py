"""Evaluation settings, as one frozen dataclass. Does not import torch, so that --help is fast."""

from dataclasses import dataclass
from typing import Annotated, Literal

from siam.settings.checks import Above, AtLeast, Within, check

Protocol = Literal["knn", "probe", "linear", "finetune"]


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluation settings. Options for other protocols are ignored; None means the protocol's default."""

    protocol: Protocol = "knn"
    """knn: nearest neighbors. probe: logistic regression. linear: as in the paper. finetune: all weights."""
    val: str | None = None
    """Labeled validation images to use instead of those in DATA."""
    labels: Annotated[float, Above(0), Within(0, 1)] = 1.0
    """Fraction of training labels to use, stratified by class (semi-supervised: 0.01 or 0.1)."""
    untrained: bool = False
    """Evaluate the same network with random weights, as a baseline."""
    k: Annotated[int, AtLeast(1)] = 200
    """Number of neighbors that vote (knn)."""
    temperature: Annotated[float, Above(0)] = 0.1
    """Temperature for weighting the votes (knn)."""
    epochs: Annotated[int | None, AtLeast(1)] = None
    """Passes over the labeled images (default: 90 for linear, 30 for finetune)."""
    batch_size: Annotated[int | None, AtLeast(2)] = None
    """Images per step (default: 4096 for linear, 256 for finetune)."""
    lr: Annotated[float | None, Above(0)] = None
    """Head learning rate per 256 images (linear: 0.02 with LARS, released code 0.1; finetune: 0.5)."""
    backbone_lr: Annotated[float | None, Above(0)] = None
    """Backbone learning rate per 256 images (finetune: 0.05)."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed for random crops, image order and the choice of labeled images."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Number of decoding processes; -1: based on the number of cores."""

    def __post_init__(self) -> None:
        check(self)
