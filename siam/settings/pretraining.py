"""Everything that can be set, as frozen dataclasses; an impossible combination fails when it is built."""

import math
from dataclasses import dataclass, field
from typing import Literal

from siam.errors import SettingsError
from siam.methods import SIMSIAM, Method
from siam.settings.checks import check_types, parse_duration


@dataclass(frozen=True)
class ViewSettings:
    """How two views of an image are made. Defaults: SimSiam's (MoCo v2's) on ImageNet."""

    size: int = 224
    """Side of a view in pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area in a crop."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    jitter_p: float = 0.8
    """Probability that brightness, contrast, saturation and hue are changed."""
    brightness: float = 0.4
    """Largest relative change of brightness."""
    contrast: float = 0.4
    """Largest relative change of contrast."""
    saturation: float = 0.4
    """Largest relative change of saturation."""
    hue: float = 0.1
    """Largest turn of the hue, in turns (0.5 is every hue)."""
    grayscale_p: float = 0.2
    """Probability of greyscale."""
    blur_p: float = 0.5
    """Probability of Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    solarize_p: float = 0.0
    """Probability that values above 0.5 are inverted (BYOL)."""
    pipeline: Literal["fast", "reference"] = "fast"
    """`fast`: crops on the workers, colors on the device. `reference`: the published Pillow pipeline."""

    def __post_init__(self) -> None:
        check_types(self, "views.")
        for name in ("flip_p", "jitter_p", "grayscale_p", "blur_p", "solarize_p"):
            _require(
                0 <= getattr(self, name) <= 1, f"views.{name} must lie in [0, 1], got {getattr(self, name)}"
            )
        for name in ("brightness", "contrast", "saturation"):
            _require(
                getattr(self, name) >= 0, f"views.{name} must not be negative, got {getattr(self, name)}"
            )
        _require(self.size >= 8, f"views.size must be at least 8 pixels, got {self.size}")
        _require(0 <= self.hue <= 0.5, f"views.hue must lie in [0, 0.5] turns, got {self.hue}")
        low, high = self.scale
        _require(0 < low <= high <= 1, f"views.scale must be a range within (0, 1], got {low} {high}")
        low, high = self.blur_sigma
        _require(0 < low <= high, f"views.blur_sigma must be a range above 0, got {low} {high}")


@dataclass(frozen=True)
class OptimizerSettings:
    """SGD as in SimSiam Sec. 3, or LARS for very large batches."""

    name: Literal["sgd", "lars"] = "sgd"
    """`lars` is for batches of thousands (You et al. 2017)."""
    lr: float = 0.05
    """Learning rate for a batch of 256; the rate used is lr x batch_size / 256."""
    momentum: float = 0.9
    """Momentum of the gradient."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter as in the paper."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises from 0."""
    predictor_lr: Literal["constant", "cosine"] = "constant"
    """Whether the predictor's learning rate decays as the others' does (Table 1: better if not)."""

    def __post_init__(self) -> None:
        check_types(self, "optimizer.")
        _require(self.lr > 0, f"optimizer.lr must be above 0, got {self.lr}")
        _require(0 <= self.momentum < 1, f"optimizer.momentum must lie in [0, 1), got {self.momentum}")
        _require(
            self.weight_decay >= 0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}"
        )
        _require(
            self.warmup_epochs >= 0, f"optimizer.warmup_epochs must not be negative, got {self.warmup_epochs}"
        )


@dataclass(frozen=True)
class LoaderSettings:
    """How images reach the device."""

    workers: int = -1
    """Processes that decode and crop; -1 chooses by the number of cores. Results do not depend on it."""
    cache: Literal["auto", "device", "none"] = "auto"
    """Keep the decoded images on the device as uint8; `auto` does so for small images that fit."""

    def __post_init__(self) -> None:
        check_types(self, "loader.")
        _require(self.workers >= -1, f"loader.workers must be -1 (automatic), 0 or more, got {self.workers}")


@dataclass(frozen=True)
class MonitorSettings:
    """What is measured while training."""

    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    knn_every: int = 1
    """Epochs between kNN evaluations, where labels exist; the last epoch has one too. 0: none."""
    knn_k: int = 200
    """Neighbours that vote."""
    knn_temperature: float = 0.1
    """Temperature of the vote's weights (Wu et al. 2018)."""
    bank: int = 10000
    """Training images, at most, that the kNN and the effective rank see, spread evenly over the set."""
    queries: int = 2000
    """Validation images, at most, that the kNN classifies."""

    def __post_init__(self) -> None:
        check_types(self, "monitor.")
        for name in ("log_every", "knn_k", "bank", "queries"):
            _require(
                getattr(self, name) >= 1, f"monitor.{name} must be at least 1, got {getattr(self, name)}"
            )
        _require(self.knn_every >= 0, f"monitor.knn_every must not be negative, got {self.knn_every}")
        _require(
            self.knn_temperature > 0, f"monitor.knn_temperature must be above 0, got {self.knn_temperature}"
        )


@dataclass(frozen=True)
class CheckpointSettings:
    """When a run is saved. A save is atomic; the last one is what --resume continues."""

    every: str = "10m"
    """Time (`90s`, `10m`, `2h`) or steps (`500`) between saves within an epoch, or both: `10m,500`."""
    keep: int = 2
    """Checkpoints that are kept: the last, and those before it in case it cannot be read."""

    def __post_init__(self) -> None:
        check_types(self, "checkpoint.")
        _require(self.keep >= 1, f"checkpoint.keep must be at least 1, got {self.keep}")
        for part in self.every.split(","):
            if not part.strip().isdecimal():
                parse_duration(part, "checkpoint.every")
            _require(part.strip() != "0", "checkpoint.every must be above 0, got 0")

    @property
    def steps(self) -> int:
        """Between saves; 0 where only time counts."""
        return min((int(part) for part in self.every.split(",") if part.strip().isdecimal()), default=0)

    @property
    def seconds(self) -> float:
        """Between saves; infinite where only steps count."""
        timed = [part for part in self.every.split(",") if not part.strip().isdecimal()]
        return min((parse_duration(part, "checkpoint.every") for part in timed), default=math.inf)


@dataclass(frozen=True)
class Settings:
    """One pretraining run, complete: two runs with equal settings and data are the same run."""

    data: str = "demo"
    """A folder, list file, .tar, .npy, .npz, or cifar10, cifar100, stl10; the demo set if left out."""
    backbone: str = "resnet50"
    """Any timm model."""
    width: float = 1.0
    """Factor on a ResNet's channels."""
    stem: Literal["auto", "small", "standard"] = "auto"
    """`small`: 3x3, stride 1, no max-pool; `auto` takes it for ResNets below 64 pixels."""
    epochs: int = 100
    """Passes over the images."""
    batch_size: int = 256
    """Images in a step, over all devices together."""
    grad_accum: int = 1
    """Parts of a batch that pass one after another, to save memory; batch norm and negatives see a part."""
    activation_checkpointing: bool = False
    """Keep few activations and compute the others again for the gradient: less memory, more time."""
    seed: int = 0
    """Every random choice follows from it."""
    init: str = ""
    """A run, trained or imported, whose weights to begin with, and whose backbone and heads to take."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    devices: int = 0
    """Processes that train together, a GPU (with device cpu, some cores) each; 0: as many as GPUs."""
    sync_bn: bool = True
    """Batch norm over the global batch, whatever the number of devices."""
    timeout: str = "10m"
    """How long processes wait for each other before they take one for lost."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16 autocast, or not; `auto` takes it where the machine is fast at it."""
    compile: bool = False
    """torch.compile the network: pays on long runs."""
    views: ViewSettings = field(default_factory=ViewSettings)
    method: Method = SIMSIAM
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        check_types(self)
        _require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        _require(self.devices >= 0, f"devices must be 0 (automatic) or more, got {self.devices}")
        parse_duration(self.timeout, "timeout")
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        _require(self.width > 0, f"width must be above 0, got {self.width}")
        others = "batch norm needs other images in the batch"
        if self.method.objective == "nt_xent":
            others = f"method '{self.method.name}' contrasts within the batch"
        _require(self.batch_size >= 2, f"{others}: batch_size must be at least 2, got {self.batch_size}")
        _require(self.grad_accum >= 1, f"grad_accum must be at least 1, got {self.grad_accum}")
        _require(
            self.batch_size % self.grad_accum == 0 and self.batch_size // self.grad_accum >= 2,
            "grad_accum must divide batch_size into equal parts of at least 2, "
            f"got {self.grad_accum} and {self.batch_size}",
        )
        if self.method.objective == "info_nce":
            _require(
                self.method.queue > self.batch_size,
                f"method.queue must be larger than batch_size, got {self.method.queue} and {self.batch_size}",
            )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SettingsError(what)
