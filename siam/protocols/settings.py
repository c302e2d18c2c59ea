"""The settings of an evaluation, as one frozen dataclass. Imports no torch, so that help is fast."""

from dataclasses import dataclass
from typing import Annotated, Literal

from siam.settings.checks import Above, AtLeast, Within, check

Protocol = Literal["knn", "probe", "linear", "finetune"]


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation. A protocol ignores those of others; None selects its own default."""

    protocol: Protocol = "knn"
    """knn: nearest neighbors. probe: logistic regression. linear: the paper's. finetune: all weights."""
    val: str | None = None
    """Labeled images to classify, if they are not in DATA."""
    labels: Annotated[float, Above(0), Within(0, 1)] = 1.0
    """Fraction of the training labels to use, stratified by class (semi-supervised: 0.01 or 0.1)."""
    untrained: bool = False
    """Evaluate the network at random initialization instead, as a baseline."""
    k: Annotated[int, AtLeast(1)] = 200
    """Neighbors that vote (knn)."""
    temperature: Annotated[float, Above(0)] = 0.1
    """Temperature of the vote's weights (knn)."""
    epochs: Annotated[int | None, AtLeast(1)] = None
    """Passes over the labeled images (linear: 90, finetune: 30)."""
    batch_size: Annotated[int | None, AtLeast(2)] = None
    """Images per step (linear: 4096, finetune: 256)."""
    lr: Annotated[float | None, Above(0)] = None
    """Learning rate of the head for batch 256 (linear: 0.02 with LARS, released code 0.1; finetune: 0.5)."""
    backbone_lr: Annotated[float | None, Above(0)] = None
    """Learning rate of the backbone for batch 256 (finetune: 0.05)."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Random seed: crops, order, and the choice of labels."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Worker processes that decode; -1: by the number of cores."""

    def __post_init__(self) -> None:
        check(self)
