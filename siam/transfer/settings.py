"""Settings and recipes for transfer to object detection."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from siam.errors import SettingsError, did_you_mean
from siam.settings.checks import Above, Ascending, AtLeast, Below, Duration, NotEmpty, Seed, check
from siam.settings.pretraining import CheckpointSettings, Count

Task = Literal["detection", "segmentation"]
Detector = Literal["c4", "fpn"]

BATCH = 16
"""Reference batch size: the learning rate is lr x batch_size / 16."""

Natural = Annotated[int, AtLeast(0)]
Side = Annotated[int, AtLeast(32, "pixels")]


@dataclass(frozen=True)
class TransferSettings:
    """Transfer settings; the defaults are the paper's for VOC07 (R50-C4)."""

    task: Task = "detection"
    """`detection` (boxes) or `segmentation` (boxes and masks)."""
    detector: Detector = "c4"
    """Detector: `c4` (res5 as the RoI head, as in the paper) or `fpn`."""
    init: str = ""
    """Initial backbone weights: `random`, a checkpoint file or a run; if omitted, RUN."""
    iterations: Count = 9000
    """Number of training steps."""
    batch_size: Count = 16
    """Global batch size: images per step across all devices."""
    lr: Annotated[float, Above(0)] = 0.02
    """Learning rate per 16 images; the peak rate is lr x batch_size / 16."""
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    """SGD momentum."""
    weight_decay: Annotated[float, AtLeast(0)] = 1e-4
    """Weight decay, applied to all parameters."""
    warmup: Natural = 100
    """Steps of linear warm-up, starting at 1/1000 of the learning rate."""
    drops: Annotated[tuple[float, ...], Above(0), Below(1), Ascending()] = (3 / 4, 11 / 12)
    """Fractions of training after which the learning rate is divided by 10."""
    train_sides: Annotated[tuple[int, ...], AtLeast(32, "pixels"), NotEmpty()] = tuple(range(480, 801, 32))
    """Training image sizes (shorter side in pixels); sampled for each image."""
    test_side: Side = 800
    """Test image size (shorter side in pixels)."""
    max_side: Side = 1333
    """Maximum longer side of training and test images, in pixels."""
    anchors: Annotated[tuple[int, ...], AtLeast(1), NotEmpty()] = (32, 64, 128, 256, 512)
    """Anchor sizes in pixels, in three aspect ratios; one per level for `fpn`."""
    candidates: Annotated[tuple[int, int], AtLeast(1)] = (12000, 6000)
    """Maximum number of RPN proposals before NMS, in training and at test time."""
    proposals: Annotated[tuple[int, int], AtLeast(1)] = (2000, 1000)
    """Maximum number of RPN proposals after NMS, in training and at test time."""
    rois: Count = 512
    """RoIs sampled per image to train the head; at most a quarter are foreground."""
    score_threshold: Annotated[float, AtLeast(0), Below(1)] = 0.05
    """Score threshold; predictions with lower scores are discarded."""
    precise_bn: Natural = 200
    """Batches for precise batch norm statistics after training; 0: off."""
    seed: Annotated[int, AtLeast(0), Seed()] = 0
    """Random seed for data order, augmentation, RoI sampling and new layers."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:1."""
    devices: Natural = 0
    """Data-parallel processes; 0: as many GPUs as divide the batch evenly."""
    threads: Annotated[int, AtLeast(0)] = 0
    """CPU threads, on which the last bits of the results depend; 0: the fastest, found by trial."""
    timeout: Annotated[str, Duration()] = "10m"
    """Time to wait for other processes before the run fails (`90s`, `10m`, `2h`)."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """`float32` or `bf16` (autocast); `auto`: bf16 if supported natively."""
    workers: Annotated[int, AtLeast(-1, "(automatic)")] = -1
    """Data-loading workers; -1: based on core count. Does not affect results."""
    log_every: Count = 20
    """Steps between records in metrics.jsonl."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    def __post_init__(self) -> None:
        check(self)
        if self.detector == "fpn" and len(self.anchors) != 5:
            listed = " ".join(map(str, self.anchors))
            raise SettingsError(f"anchors must list five sizes for fpn, one per level, got {listed}")


def rate_at(step: int, settings: TransferSettings) -> float:
    """Return the learning rate at `step`: linear warm-up, then step decay."""
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
"""A few hundred images at 224-320 pixels; takes minutes on a GPU."""

_LARGE = 2000  # images; on fewer, the paper's schedules run too many epochs

RECIPES = {"voc07": VOC07, "voc0712": VOC0712, "coco-1x": COCO_1X, "small": SMALL}


def starting_point(recipe: str | None, layout: str, years: int, images: int) -> TransferSettings:
    """Return the settings of `recipe` or, if None, of a recipe that fits the data.

    layout: dataset format, `voc` or `coco`. years: number of VOC years. images: number
    of training images. Raises SettingsError for an unknown recipe.
    """
    if recipe is None:
        large = {"coco": "coco-1x", "voc": "voc0712" if years > 1 else "voc07"}[layout]
        recipe = large if images >= _LARGE else "small"
    if recipe not in RECIPES:
        raise SettingsError(
            f"unknown recipe '{recipe}'{did_you_mean(recipe, RECIPES)} (recipes: {', '.join(RECIPES)})"
        )
    return RECIPES[recipe]
