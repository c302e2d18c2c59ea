"""Evaluation settings. This module does not import torch, so that --help is fast."""

from dataclasses import dataclass
from typing import Annotated, Literal

from siam.settings.checks import Above, AtLeast, Seed, Within, check

Protocol = Literal["knn", "probe", "linear", "finetune"]


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluation settings; settings of other protocols are ignored.

    None means the protocol's default.
    """

    protocol: Protocol = "knn"
    """Protocol: knn, probe (logistic regression), linear (as in the paper), finetune."""
    val: str | None = None
    """Labeled validation images to use instead of those in DATA."""
    labels_from: str | None = None
    """Table of paths and labels to use instead of DATA's own, such as labels.csv of `siam explore`."""
    labels: Annotated[float, Above(0), Within(0, 1)] = 1.0
    """Fraction of labels to use, stratified by class (semi-supervised: 0.01 or 0.1)."""
    untrained: bool = False
    """Evaluate a randomly initialized encoder instead, as a baseline."""
    k: Annotated[int, AtLeast(1)] = 200
    """Number of nearest neighbors (knn)."""
    temperature: Annotated[float, Above(0)] = 0.1
    """Temperature of the neighbors' weights (knn)."""
    epochs: Annotated[int | None, AtLeast(1)] = None
    """Training epochs (default: 90 for linear, 30 for finetune)."""
    batch_size: Annotated[int | None, AtLeast(2)] = None
    """Batch size (default: 4096 for linear, 256 for finetune)."""
    lr: Annotated[float | None, Above(0)] = None
    """Head learning rate for batch size 256 (default: linear 0.02, finetune 0.5)."""
    backbone_lr: Annotated[float | None, Above(0)] = None
    """Backbone learning rate for batch size 256 (default: 0.05; finetune only)."""
    seed: Annotated[int, AtLeast(0), Seed()] = 0
    """Seed for random crops, image order and the selection of labeled images."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Number of decoding workers; -1: based on the number of cores."""

    def __post_init__(self) -> None:
        check(self)
