"""Pretraining settings, as frozen dataclasses; invalid values raise SettingsError on construction.

The string below each field is its command-line help.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from siam.errors import SettingsError
from siam.plugins import load
from siam.settings.checks import (
    Above,
    Ascending,
    AtLeast,
    AtMost,
    Below,
    Duration,
    Seed,
    Within,
    check,
    parse_duration,
)
from siam.settings.method import Method

Probability = Annotated[float, Within(0, 1)]
Strength = Annotated[float, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]
Precision = Literal["auto", "float32", "bf16"]


@dataclass(frozen=True)
class ViewSettings:
    """Augmentation settings; the defaults are SimSiam's for ImageNet (the same as MoCo v2's)."""

    size: Annotated[int, AtLeast(8, "pixels"), AtMost(8192, "pixels")] = 224
    """Height and width of a view, in pixels."""
    scale: Annotated[tuple[float, float], Above(0), Within(0, 1), Ascending()] = (0.2, 1.0)
    """Minimum and maximum crop area, as fractions of the image area."""
    flip_p: Probability = 0.5
    """Probability of a horizontal flip."""
    jitter_p: Probability = 0.8
    """Probability of color jitter: brightness, contrast, saturation and hue."""
    brightness: Strength = 0.4
    """Color jitter: maximum relative change in brightness."""
    contrast: Strength = 0.4
    """Color jitter: maximum relative change in contrast."""
    saturation: Strength = 0.4
    """Color jitter: maximum relative change in saturation."""
    hue: Annotated[float, Within(0, 0.5, "turns")] = 0.1
    """Color jitter: maximum hue rotation, in turns (0.5 covers all hues)."""
    grayscale_p: Probability = 0.2
    """Probability of conversion to grayscale."""
    blur_p: Probability = 0.5
    """Probability of Gaussian blur."""
    blur_sigma: Annotated[tuple[float, float], Above(0), Ascending()] = (0.1, 2.0)
    """Minimum and maximum standard deviation of the blur, in pixels."""
    solarize_p: Probability = 0.0
    """Probability of solarization, which inverts values above 0.5 (BYOL)."""
    pipeline: Literal["fast", "reference"] = "fast"
    """`fast`: crops in workers, color changes on the device. `reference`: the published Pillow pipeline."""

    def __post_init__(self) -> None:
        check(self, "views.")


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer settings: SGD as in SimSiam Sec. 3, or LARS for very large batches."""

    name: Literal["sgd", "lars"] = "sgd"
    """Optimizer; `lars` is for batches of thousands of images (You et al. 2017)."""
    lr: Annotated[float, Above(0)] = 0.05
    """Base learning rate for a batch size of 256; the peak rate is lr x batch_size / 256."""
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    """Momentum of SGD or LARS."""
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    """Weight decay. SGD decays every parameter, as in the paper; LARS excludes biases and batch norm."""
    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Number of epochs of linear learning-rate warmup from 0."""
    predictor_lr: Literal["constant", "cosine"] = "constant"
    """Predictor learning rate: constant (better in Table 1), or cosine decay, as for the encoder."""

    def __post_init__(self) -> None:
        check(self, "optimizer.")


@dataclass(frozen=True)
class LoaderSettings:
    """Data-loading settings."""

    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Number of workers that decode and crop; -1: based on the CPU cores. Does not affect the results."""
    cache: Literal["auto", "device", "none"] = "auto"
    """`device`: cache decoded images on the device as uint8; `auto`: only small images of equal size."""

    def __post_init__(self) -> None:
        check(self, "loader.")


@dataclass(frozen=True)
class MonitorSettings:
    """Logging and metric settings."""

    log_every: Count = 10
    """Steps between records in metrics.jsonl."""
    every: Count = 1
    """Epochs between records, metrics and checkpoints; the last epoch always has them."""
    knn_every: Annotated[int, AtLeast(0)] = 1
    """Epochs between kNN evaluations, which need labels; the last epoch is always evaluated. 0: disabled."""
    knn_k: Count = 20
    """Number of neighbors k for kNN; never more than the smallest class has images."""
    knn_temperature: Annotated[float, Above(0)] = 0.1
    """Temperature for weighting the neighbors' votes (Wu et al. 2018)."""
    bank: Count = 10000
    """Maximum number of training images, evenly spaced, used to measure kNN accuracy and effective rank."""
    queries: Count = 2000
    """Maximum number of validation images to classify by kNN."""

    def __post_init__(self) -> None:
        check(self, "monitor.")


@dataclass(frozen=True)
class CheckpointSettings:
    """Checkpoint settings. Saves are atomic; --resume continues from the latest checkpoint."""

    every: str = "10m"
    """Save interval within an epoch: time (`90s`, `10m`, `2h`), steps (`500`) or both (`10m,500`)."""
    keep: Count = 2
    """Number of checkpoints to keep: the latest, plus earlier ones in case the latest is corrupt."""

    def __post_init__(self) -> None:
        check(self, "checkpoint.")
        for part in self.every.split(","):
            if not part.strip().isdecimal():
                parse_duration(part, "checkpoint.every")
            elif int(part) == 0:
                raise SettingsError("checkpoint.every must be above 0, got 0")

    @property
    def steps(self) -> int:
        """Steps between saves; 0 if saves depend only on time."""
        return min((int(part) for part in self.every.split(",") if part.strip().isdecimal()), default=0)

    @property
    def seconds(self) -> float:
        """Seconds between saves; infinite if saves depend only on steps."""
        timed = [part for part in self.every.split(",") if not part.strip().isdecimal()]
        return min((parse_duration(part, "checkpoint.every") for part in timed), default=math.inf)


@dataclass(frozen=True)
class Settings:
    """All pretraining settings. Together with the images, they determine the result of the run."""

    data: str = "demo"
    """Images: folder, list file, .tar, .npy, .npz, cifar10, cifar100 or stl10; default: the demo dataset."""
    backbone: str = "resnet50"
    """Backbone: name of any timm model."""
    width: Annotated[float, Above(0), AtMost(16)] = 1.0
    """Channel multiplier for ResNets."""
    stem: Literal["auto", "small", "standard"] = "auto"
    """ResNet stem. `small`: 3x3, stride 1, no max-pool; `auto`: small for views below 64 pixels."""
    epochs: Annotated[float, Above(0)] = 100
    """Number of passes over the training images; may be fractional."""
    time_limit: Annotated[str, Duration(or_empty=True)] = ""
    """Time after which to end (`20m`, `2h`), by a shorter or longer schedule than `epochs`; empty: none."""
    batch_size: Annotated[int, AtLeast(2, "(batch norm and negatives need more than one image)")] = 256
    """Number of images per step, across all devices."""
    grad_accum: Count = 1
    """Micro-batches per step (gradient accumulation). Batch norm and negatives use one at a time."""
    activation_checkpointing: bool = False
    """Activation checkpointing: recompute activations in the backward pass, trading speed for memory."""
    seed: Annotated[int, AtLeast(0), Seed()] = 0
    """Random seed for initialization, data order and augmentation."""
    init: str = ""
    """Run to initialize weights from, or weights that exist (`timm:NAME`, `hf-hub:OWNER/NAME`, a folder or
    file of timm's); also sets the backbone and, if the methods of two runs match, the heads."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""
    devices: Annotated[int, AtLeast(0)] = 0
    """Data-parallel processes; on CPU they share the cores. 0: as many GPUs as divide the batch."""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads, on which the last bits of the results depend; 0: the fastest, found by trial."""
    sync_bn: bool = True
    """Synchronized batch norm: statistics over the global batch, regardless of the number of devices."""
    timeout: Annotated[str, Duration()] = "10m"
    """How long a process waits for the others before the run fails (`90s`, `10m`, `2h`)."""
    precision: Precision = "auto"
    """`float32`, or `bf16` mixed precision (autocast); `auto`: bf16 if the hardware supports it natively."""
    compile: bool = False
    """Compile the network with torch.compile; worthwhile for long runs."""
    views: ViewSettings = field(default_factory=ViewSettings)
    method: Method = field(default_factory=Method)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        check(self)
        if self.epochs == int(self.epochs):
            object.__setattr__(self, "epochs", int(self.epochs))  # reads better in settings.yaml
        if self.batch_size % self.grad_accum or self.batch_size // self.grad_accum < 2:
            raise SettingsError(
                "grad_accum must divide batch_size into equal micro-batches of at least 2 images, "
                f"got {self.grad_accum} and {self.batch_size}"
            )
        # The default objective has no check, so --help need not import torch.
        if self.method.objective != Method.objective:
            _check_objective(self.method, self.batch_size)


def _check_objective(method: Method, batch_size: int) -> None:
    """Call the `check` function of the objective's module, if it has one. Raises SettingsError."""
    check_objective = getattr(load("siam.objectives", method.objective), "check", None)
    if check_objective is not None:
        check_objective(method, batch_size)
