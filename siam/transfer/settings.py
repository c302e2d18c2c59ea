"""How a detector is trained and measured, as one frozen dataclass, and the recipes to start from."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from siam.errors import SettingsError, did_you_mean
from siam.settings.checks import parse_duration
from siam.settings.pretraining import CheckpointSettings

Task = Literal["detection", "segmentation"]
Detector = Literal["c4", "fpn"]

BATCH = 16
"""Images in a step for which learning rates are given; the rate used is lr x batch_size / 16."""


@dataclass(frozen=True)
class TransferSettings:
    """One fine-tuning, complete. Defaults: the paper's VOC07, Faster R-CNN on ResNet-50-C4."""

    task: Task = "detection"
    """detection (boxes), or segmentation (boxes and a mask for each)."""
    detector: Detector = "c4"
    """c4: the paper's, RPN and RoIAlign on res4, res5 as the head. fpn: torchvision's feature pyramid."""
    init: str = ""
    """What the backbone begins with: `random`, a checkpoint file, another run; RUN itself if left out."""
    iterations: int = 9000
    """Steps of training."""
    batch_size: int = 16
    """Images in a step, over all devices together."""
    lr: float = 0.02
    """Learning rate for a batch of 16; the rate used is lr x batch_size / 16."""
    momentum: float = 0.9
    """Momentum of the gradient."""
    weight_decay: float = 1e-4
    """Weight decay, on every parameter."""
    warmup: int = 100
    """Steps in which the learning rate rises from a thousandth of itself."""
    drops: tuple[float, ...] = (3 / 4, 11 / 12)
    """Shares of the training after which the learning rate falls to a tenth."""
    train_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    """Shorter side of a training image in pixels, one of these at random."""
    test_side: int = 800
    """Shorter side of a test image in pixels."""
    max_side: int = 1333
    """Longer side in pixels, at most."""
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Sides of the anchor boxes in pixels, in three shapes: all at each place (c4), one a level (fpn)."""
    candidates: tuple[int, int] = (12000, 6000)
    """Boxes that the RPN puts through non-maximum suppression: training, test."""
    proposals: tuple[int, int] = (2000, 1000)
    """Boxes that it keeps for the head: training, test."""
    rois: int = 512
    """Of these the head learns from so many in each image, a quarter of them objects."""
    score_threshold: float = 0.05
    """Predictions below it are dropped."""
    precise_bn: int = 200
    """Batches over which the running statistics of batch norm are measured anew before the test."""
    seed: int = 0
    """Of order, flips, sizes, samples of boxes, and all that is not pretrained."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    devices: int = 0
    """Processes that train together, a GPU each (or, with device cpu, some cores); 0: one for each GPU."""
    timeout: str = "10m"
    """How long processes wait for each other before they take one for lost."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16 autocast, or not; `auto` takes it where the machine is fast at it."""
    workers: int = -1
    """Processes that decode; -1 chooses. Results do not depend on it."""
    log_every: int = 20
    """Steps between lines in metrics.jsonl."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        for name, kinds in (("task", get_args(Task)), ("detector", get_args(Detector))):
            value = getattr(self, name)
            if value not in kinds:
                raise SettingsError(
                    f"unknown {name} '{value}'{did_you_mean(value, kinds)}; there are {', '.join(kinds)}"
                )
        for name in ("iterations", "batch_size", "rois", "log_every"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "precise_bn", "seed", "devices"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("candidates", "proposals", "train_sides", "anchors"):
            values = getattr(self, name)
            _require(bool(values) and min(values) >= 1, f"{name} must be 1 or more, got {_listed(values)}")
        parse_duration(self.timeout, "timeout")
        _require(self.lr > 0, f"lr must be above 0, got {self.lr:g}")
        threshold = self.score_threshold
        _require(0 <= threshold < 1, f"score_threshold must lie in [0, 1), got {threshold:g}")
        _require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum:g}")
        _require(self.workers >= -1, f"workers must be -1 (automatic), 0 or more, got {self.workers}")
        _require(
            list(self.drops) == sorted(self.drops) and all(0 < share < 1 for share in self.drops),
            f"drops must be rising shares of the training within (0, 1), got {_listed(self.drops)}",
        )
        sides = (*self.train_sides, self.test_side, self.max_side)
        _require(min(sides) >= 32, f"sides must be at least 32 pixels, got {min(sides)}")
        _require(
            self.detector == "c4" or len(self.anchors) == 5,
            f"fpn has five levels, so anchors must be five sides, got {_listed(self.anchors)}",
        )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SettingsError(what)


def _listed(values: tuple[Any, ...]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


def rate_at(step: int, settings: TransferSettings) -> float:
    """The learning rate at `step` (from 0): a linear rise, then a tenth after each of `drops`."""
    rate = settings.lr * settings.batch_size / BATCH
    if step < settings.warmup:  # from 1/1000, as in Detectron2
        return rate * (0.001 + 0.999 * step / settings.warmup)
    passed = sum(step >= round(share * settings.iterations) for share in settings.drops)
    return rate * 0.1**passed


VOC07 = TransferSettings()
"""VOC 2007 trainval, 9k steps. Published: AP50 75.5 (SimSiam, base), 35.9 from scratch."""

VOC0712 = replace(VOC07, iterations=24000)
"""VOC 2007 and 2012 trainval, 24k steps. Published: AP50 82.0 (SimSiam, base), 60.2 from scratch."""

COCO_1X = replace(
    VOC07,
    task="segmentation",
    iterations=90000,
    warmup=1000,
    drops=(2 / 3, 8 / 9),
    train_sides=tuple(range(640, 801, 32)),
)
"""COCO 2017, 90k steps. Published: AP of boxes 37.9, masks 33.2 (SimSiam, base); scratch 26.4, 29.3."""

SMALL = TransferSettings(
    iterations=1200,
    batch_size=8,
    train_sides=(224, 256, 288, 320),
    test_side=288,
    max_side=480,
    anchors=(16, 32, 64, 128, 256),
    candidates=(2000, 1000),
    proposals=(500, 300),
    rois=64,
    precise_bn=50,
)
"""A few hundred images at half size, to compare encoders: minutes on a GPU."""

RECIPES = {"voc07": VOC07, "voc0712": VOC0712, "coco-1x": COCO_1X, "small": SMALL}


def starting_point(recipe: str | None, layout: str, years: int, images: int) -> TransferSettings:
    """The settings before the user's own: of the recipe, or of the one that fits the data.

    layout: voc or coco. years: of VOC. images: to train on. Raises SettingsError for an unknown name.
    """
    if recipe is None:
        large = {"coco": "coco-1x", "voc": "voc0712" if years > 1 else "voc07"}[layout]
        recipe = large if images >= _LARGE else "small"
    if recipe not in RECIPES:
        raise SettingsError(
            f"unknown recipe '{recipe}'{did_you_mean(recipe, RECIPES)}; there are {', '.join(RECIPES)}"
        )
    return RECIPES[recipe]


_LARGE = 2000  # images: fewer are seen too often in the paper's schedules
