"""The settings of a transfer, as a frozen dataclass, and its recipes."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from siam.errors import SettingsError, did_you_mean
from siam.settings.checks import Above, Ascending, AtLeast, Below, Duration, NotEmpty, check
from siam.settings.pretraining import CheckpointSettings, Count

Task = Literal["detection", "segmentation"]
Detector = Literal["c4", "fpn"]

BATCH = 16
"""Batch size that learning rates are given for; the one used is lr x batch_size / 16."""

Natural = Annotated[int, AtLeast(0)]
Side = Annotated[int, AtLeast(32, "pixels")]


@dataclass(frozen=True)
class TransferSettings:
    """All settings of a transfer. Defaults: the paper's VOC07, Faster R-CNN on ResNet-50-C4."""

    task: Task = "detection"
    """detection (boxes), or segmentation (boxes and masks)."""
    detector: Detector = "c4"
    """c4: the paper's, RPN and RoIAlign on res4, res5 as the head. fpn: torchvision's feature pyramid."""
    init: str = ""
    """Initial weights of the backbone: `random`, a checkpoint file or another run; RUN itself if left out."""
    iterations: Count = 9000
    """Training steps."""
    batch_size: Count = 16
    """Global batch size: images per step over all devices together."""
    lr: Annotated[float, Above(0)] = 0.02
    """Base learning rate, for a batch of 16: the one used is lr x batch_size / 16."""
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    """SGD momentum."""
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    """Weight decay, on every parameter."""
    warmup: Natural = 100
    """Steps of linear warm-up from a thousandth of the learning rate."""
    drops: Annotated[tuple[float, ...], Above(0), Below(1), Ascending()] = (3 / 4, 11 / 12)
    """Fractions of the training after which the learning rate drops to a tenth."""
    train_sides: Annotated[tuple[int, ...], AtLeast(32, "pixels"), NotEmpty()] = tuple(range(480, 801, 32))
    """Shorter side of a training image in pixels: one of these at random."""
    test_side: Side = 800
    """Shorter side of a test image in pixels."""
    max_side: Side = 1333
    """Longer side of any image in pixels, at most."""
    anchors: Annotated[tuple[int, ...], AtLeast(1), NotEmpty()] = (32, 64, 128, 256, 512)
    """Sides of the anchor boxes in pixels, three shapes each: all per location (c4), one per level (fpn)."""
    candidates: Annotated[tuple[int, int], AtLeast(1)] = (12000, 6000)
    """RPN boxes before non-maximum suppression: training, test."""
    proposals: Annotated[tuple[int, int], AtLeast(1)] = (2000, 1000)
    """RPN boxes after non-maximum suppression: training, test."""
    rois: Count = 512
    """Proposals per image to train the head on, a quarter of them objects."""
    score_threshold: Annotated[float, AtLeast(0), Below(1)] = 0.05
    """Discard predictions with a lower score."""
    precise_bn: Natural = 200
    """Precise batch norm: batches over which running statistics are measured before the test; 0: off."""
    seed: Natural = 0
    """Random seed: order, flips, sizes, sampled boxes, and layers that are not pretrained."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    devices: Natural = 0
    """Data-parallel processes, one per GPU (with device cpu, sharing the cores); 0: one for each GPU."""
    timeout: Annotated[str, Duration()] = "10m"
    """How long a process waits for the others before it considers them lost."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Mixed precision (bf16 autocast) or float32; `auto`: bf16 where the hardware is fast at it."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Worker processes that decode; -1: by the number of cores. Results do not depend on it."""
    log_every: Count = 20
    """Steps between records in metrics.jsonl."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        check(self)
        if self.detector == "fpn" and len(self.anchors) != 5:
            listed = " ".join(map(str, self.anchors))
            raise SettingsError(f"fpn has five levels, so anchors must be five sides, got {listed}")


def rate_at(step: int, settings: TransferSettings) -> float:
    """Return the learning rate at `step` (from 0): linear warm-up, then a tenth after each of `drops`."""
    rate = settings.lr * settings.batch_size / BATCH
    if step < settings.warmup:  # from 1/1000, as in Detectron2
        return rate * (0.001 + 0.999 * step / settings.warmup)
    passed = sum(step >= round(fraction * settings.iterations) for fraction in settings.drops)
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
"""A few hundred images at half size, to compare encoders in minutes on a GPU."""

_LARGE = 2000  # training images: with fewer, the paper's schedules repeat each image too often

RECIPES = {"voc07": VOC07, "voc0712": VOC0712, "coco-1x": COCO_1X, "small": SMALL}


def starting_point(recipe: str | None, layout: str, years: int, images: int) -> TransferSettings:
    """Return the settings that the user's overrides apply to: the recipe's, or those that fit the data.

    layout: voc or coco. years: number of years of VOC. images: number of training images. Raises
    SettingsError for a recipe that does not exist.
    """
    if recipe is None:
        large = {"coco": "coco-1x", "voc": "voc0712" if years > 1 else "voc07"}[layout]
        recipe = large if images >= _LARGE else "small"
    if recipe not in RECIPES:
        raise SettingsError(
            f"unknown recipe '{recipe}'{did_you_mean(recipe, RECIPES)}; there are {', '.join(RECIPES)}"
        )
    return RECIPES[recipe]
