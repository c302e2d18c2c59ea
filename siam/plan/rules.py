"""The table behind `siam plan`: which network for which number of view pairs.

A larger network learns more from each pair and sees fewer pairs in the same time. Each row states from how
many pairs on its network overtakes the row before.
"""

from dataclasses import dataclass, replace

from siam.methods import METHODS, SIMCLR, Method
from siam.recipes import published
from siam.settings.pretraining import MonitorSettings, OptimizerSettings, Settings, ViewSettings

METHOD = SIMCLR.name
"""The method that a plan takes unless the user names one."""


@dataclass(frozen=True)
class Row:
    """A network, the size of its views, and the number of pairs from which on it pays."""

    pairs: int
    """Pairs of views seen during training (images times epochs)."""
    backbone: str
    width: float
    size: int
    """Height and width of a view, in pixels."""
    batch_size: int
    gflops: float
    """Cost of a forward pass of one view, in 10^9 floating-point operations."""

    @property
    def gflops_per_pair(self) -> float:
        """Cost of training on a pair: two views, each forward once and backward at twice the cost."""
        return 6 * self.gflops


SMALL_SIDE = 40
"""Largest shorter side, in pixels, of images that count as small, such as CIFAR's."""

SMALL = (
    Row(0, "resnet10t", 0.25, 32, 64, 0.032),
    Row(300_000, "resnet10t", 0.5, 32, 64, 0.128),
    Row(3_000_000, "resnet18", 1.0, 32, 256, 1.11),
)
LARGE = (
    Row(0, "resnet10t", 0.25, 48, 64, 0.073),
    Row(300_000, "resnet10t", 0.5, 48, 64, 0.287),
    Row(3_000_000, "resnet18", 1.0, 96, 256, 0.666),
    Row(10_000_000, "resnet50", 1.0, 128, 256, 2.67),
    Row(60_000_000, "resnet50", 1.0, 224, 256, 8.17),
)

MAX_EPOCHS = 1000
"""More passes over a small set no longer help: the run then ends before its time."""


def rows_for(side: int) -> tuple[Row, ...]:
    """Return the rows for images with a shorter side of `side` pixels, smallest network first."""
    return SMALL if side <= SMALL_SIDE else tuple(row for row in LARGE if row.size <= max(side, 48))


def choose(pairs_in_time: dict[Row, float]) -> Row:
    """Return the largest network that gets the pairs it needs.

    pairs_in_time: pairs that each row can see, smallest network first. The first row needs none.
    """
    return next(row for row in reversed(pairs_in_time) if pairs_in_time[row] >= row.pairs)


def settings_for(row: Row, data: str, images: int, method: str) -> Settings:
    """Return the settings for a row; their number of epochs is not planned yet."""
    heads, optimizer = _published_or_small(method, row)
    return Settings(
        data=data,
        backbone=row.backbone,
        width=row.width,
        batch_size=_batch_size(row, images),
        views=ViewSettings(size=row.size, blur_p=0.5 if row.size > 96 else 0.0),
        method=heads,
        optimizer=optimizer,
        monitor=MonitorSettings(bank=5000),
    )


def _batch_size(row: Row, images: int) -> int:
    """Return the row's batch size; less for sets of fewer than four batches, but at least 8."""
    batch = row.batch_size
    while batch > max(min(images, 8), images // 4):
        batch //= 2
    return batch


def _published_or_small(method: str, row: Row) -> tuple[Method, OptimizerSettings]:
    """Return the published heads for a ResNet-50, otherwise heads and rates for small networks."""
    if row.backbone == "resnet50":
        return published(method)
    dim = 512 if METHODS[method].predictor == "learned" else 128
    heads = replace(
        METHODS[method], projector_layers=2, projector_hidden=512, dim=dim, predictor_hidden=128,
        batch_norm="hidden", momentum=0.99, queue=4096, prototypes=256, temperature=0.2,
    )  # fmt: skip
    return heads, OptimizerSettings(lr=1.2, weight_decay=5e-4, warmup_epochs=0.0)
