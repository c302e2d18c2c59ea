"""Transfer settings (a frozen dataclass) and recipes."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from siam.errors import SettingsError, did_you_mean
from siam.settings.checks import Above, Ascending, AtLeast, Below, Duration, NotEmpty, check
from siam.settings.pretraining import CheckpointSettings, Count

Task = Literal["detection", "segmentation"]
Detector = Literal["c4", "fpn"]

BATCH = 16
"""Reference batch size for learning rates; the rate used is lr x batch_size / 16."""

Natural = Annotated[int, AtLeast(0)]
Side = Annotated[int, AtLeast(32, "pixels")]


@dataclass(frozen=True)
class TransferSettings:
    """All transfer settings. The defaults are the paper's for VOC07 (Faster R-CNN, ResNet-50-C4)."""

    task: Task = "detection"
    """`detection` (boxes) or `segmentation` (boxes and masks)."""
    detector: Detector = "c4"
    """`c4` (the paper's): RPN and RoIAlign on res4, head from res5. `fpn`: torchvision's feature pyramid."""
    init: str = ""
    """Initial backbone weights: `random`, a checkpoint file or another run. If left out, RUN's weights."""
    iterations: Count = 9000
    """Number of training steps."""
    batch_size: Count = 16
    """Global batch size: images per step across all devices."""
    lr: Annotated[float, Above(0)] = 0.02
    """Base learning rate, per 16 images: the rate used is lr x batch_size / 16."""
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    """SGD momentum."""
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    """Weight decay, applied to every parameter."""
    warmup: Natural = 100
    """Linear warm-up steps, starting at a thousandth of the learning rate."""
    drops: Annotated[tuple[float, ...], Above(0), Below(1), Ascending()] = (3 / 4, 11 / 12)
    """Fractions of training after which the learning rate is divided by 10."""
    train_sides: Annotated[tuple[int, ...], AtLeast(32, "pixels"), NotEmpty()] = tuple(range(480, 801, 32))
    """Shorter sides in pixels for training images; one is drawn at random per image."""
    test_side: Side = 800
    """Shorter side of test images in pixels."""
    max_side: Side = 1333
    """Maximum longer side in pixels, for both training and test images."""
    anchors: Annotated[tuple[int, ...], AtLeast(1), NotEmpty()] = (32, 64, 128, 256, 512)
    """Anchor sides in pixels, each in three aspect ratios. c4: all at every location; fpn: one per level."""
    candidates: Annotated[tuple[int, int], AtLeast(1)] = (12000, 6000)
    """Maximum number of RPN boxes kept before non-maximum suppression, in training and at test time."""
    proposals: Annotated[tuple[int, int], AtLeast(1)] = (2000, 1000)
    """Maximum number of RPN boxes kept after non-maximum suppression, in training and at test time."""
    rois: Count = 512
    """Boxes sampled per image to train the head; at most a quarter are foreground."""
    score_threshold: Annotated[float, AtLeast(0), Below(1)] = 0.05
    """Minimum score; predictions below it are discarded."""
    precise_bn: Natural = 200
    """Batches used to recompute batch norm statistics after training (precise batch norm); 0: off."""
    seed: Natural = 0
    """Random seed for image order, flips, image sizes, box sampling and the initialization of new layers."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:1."""
    devices: Natural = 0
    """Data-parallel processes; on CPU, they share the cores. 0: as many GPUs as divide the batch evenly."""
    timeout: Annotated[str, Duration()] = "10m"
    """How long a process waits for the others before the run fails."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Mixed precision (bf16 autocast) or float32; `auto`: bf16 if the hardware supports it natively."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Image-decoding workers; -1: based on the number of cores. The number does not affect results."""
    log_every: Count = 20
    """Steps between records in metrics.jsonl."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        check(self)
        if self.detector == "fpn" and len(self.anchors) != 5:
            listed = " ".join(map(str, self.anchors))
            raise SettingsError(f"fpn has five levels, so anchors must list five sides, got {listed}")


def rate_at(step: int, settings: TransferSettings) -> float:
    """Return the learning rate at `step` (from 0): linear warm-up, then a 10-fold drop at each of `drops`."""
    rate = settings.lr * settings.batch_size / BATCH
    if step < settings.warmup:  # from 1/1000, as in Detectron2
        return rate * (0.001 + 0.999 * step / settings.warmup)
    passed = sum(step >= round(fraction * settings.iterations) for fraction in settings.drops)
    return rate * 0.1**passed


VOC07 = TransferSettings()
"""VOC 2007 trainval, 9k steps. Published AP50: 75.5 (SimSiam, base), 35.9 (from scratch)."""

VOC0712 = replace(VOC07, iterations=24000)
"""VOC 2007 and 2012 trainval, 24k steps. Published AP50: 82.0 (SimSiam, base), 60.2 (from scratch)."""

COCO_1X = replace(
    VOC07,
    task="segmentation",
    iterations=90000,
    warmup=1000,
    drops=(2 / 3, 8 / 9),
    train_sides=tuple(range(640, 801, 32)),
)
"""COCO 2017, 90k steps. Published box/mask AP: 37.9/33.2 (SimSiam, base), 26.4/29.3 (from scratch)."""

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
"""For a few hundred images, resized to 224-320 pixels; compares encoders within minutes on a GPU."""

_LARGE = 2000  # training images; with fewer, the paper's schedules repeat each image too often

RECIPES = {"voc07": VOC07, "voc0712": VOC0712, "coco-1x": COCO_1X, "small": SMALL}


def starting_point(recipe: str | None, layout: str, years: int, images: int) -> TransferSettings:
    """Return the settings that the user's overrides apply to.

    recipe: recipe name; None: a recipe that fits the data. layout: `voc` or `coco`. years: number of VOC
    years. images: number of training images. Raises SettingsError for an unknown recipe.
    """
    if recipe is None:
        large = {"coco": "coco-1x", "voc": "voc0712" if years > 1 else "voc07"}[layout]
        recipe = large if images >= _LARGE else "small"
    if recipe not in RECIPES:
        raise SettingsError(
            f"unknown recipe '{recipe}'{did_you_mean(recipe, RECIPES)} (recipes: {', '.join(RECIPES)})"
        )
    return RECIPES[recipe]
