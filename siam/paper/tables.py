"""The tables of SimSiam (Chen & He 2021): settings and published result of each row.

Unless noted otherwise, published results are linear top-1 accuracies on ImageNet in %
(ResNet-50, 100 epochs).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from siam.errors import SettingsError, did_you_mean
from siam.settings.pretraining import Settings

Change = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A table row: an experiment and its published result."""

    name: str
    change: Change
    """Overrides of the base settings, nested as in settings.yaml."""
    published: float | None
    """Linear top-1 accuracy in %; None if the paper reports none."""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    rows: builds the rows from the base settings and the number of steps per epoch.
    """

    title: str
    source: str
    rows: Callable[[Settings, int], list[Row]]


def table(name: str) -> Table:
    """Return a table by name. Raises SettingsError if the name is unknown."""
    if name not in TABLES:
        raise SettingsError(
            f"unknown table '{name}'{did_you_mean(name, TABLES)} (available: {', '.join(TABLES)})"
        )
    return TABLES[name]


def _method(**changes: Any) -> Change:
    return {"method": changes}


def _warmed_up(base: Settings) -> Change:
    """Return a change that adds warm-up, without which some rows do not train.

    The warm-up is at least a tenth of the epochs (paper: 10 of 100).
    """
    return {"optimizer": {"warmup_epochs": max(base.optimizer.warmup_epochs, base.epochs / 10)}}


def _stop_gradient(base: Settings, steps: int) -> list[Row]:
    """Return the rows of Figure 2, where the predictor's learning rate decays.

    From Sec. 4.2 on, it is constant.
    """
    decayed = {"optimizer": {"predictor_lr": "cosine"}}
    return [
        Row("with stop-gradient", decayed, 67.7, "± 0.1 over 5 trials"),
        Row("without stop-gradient", {**decayed, **_method(target="gradient")}, 0.1),
    ]


def _predictor(base: Settings, steps: int) -> list[Row]:
    return [
        Row("no predictor", _method(predictor="none"), 0.1),
        Row("fixed random initialization", _method(predictor="fixed"), 1.5),
        Row("learning rate decayed", {"optimizer": {"predictor_lr": "cosine"}}, 67.7),
        Row("learning rate constant", {"optimizer": {"predictor_lr": "constant"}}, 68.1),
    ]


def _batch_size(base: Settings, steps: int) -> list[Row]:
    published = {64: 66.1, 128: 67.3, 256: 68.1, 512: 68.1, 1024: 68.0, 2048: 67.9, 4096: 64.0}
    sizes = {paper: base.batch_size * paper // 256 for paper in published}
    return [
        Row(
            f"batch {size}",
            {"batch_size": size, **(_warmed_up(base) if paper >= 1024 else {})},
            published[paper],
            f"{paper} in the paper",
        )
        for paper, size in sizes.items()
        if size >= 2 and steps * base.batch_size // size >= 4  # at least 4 steps per epoch
    ]


def _batch_norm(base: Settings, steps: int) -> list[Row]:
    return [
        Row("none", {**_method(batch_norm="none"), **_warmed_up(base)}, 34.6),
        Row("hidden layers only", _method(batch_norm="hidden"), 67.4),
        Row("default: hidden, projector output", _method(batch_norm="default", output_affine=True), 68.1),
        Row("default, output without affine", _method(batch_norm="default", output_affine=False), 68.2),
        Row("all: predictor output too", _method(batch_norm="all"), None, "unstable"),
    ]


def _similarity(base: Settings, steps: int) -> list[Row]:
    return [
        Row("cosine", _method(objective="cosine"), 68.1),
        Row("softmax cross-entropy", _method(objective="cross_entropy"), 63.2),
    ]


def _symmetry(base: Settings, steps: int) -> list[Row]:
    return [
        Row("symmetric", _method(symmetry="symmetric"), 68.1),
        Row("asymmetric", _method(symmetry="asymmetric"), 64.8),
        Row("asymmetric, 2x sampling", _method(symmetry="asymmetric_2x"), 67.3),
    ]


def _dimension(base: Settings, steps: int) -> list[Row]:
    published = {256: 65.3, 512: 67.2, 1024: 67.5, 2048: 68.1}
    dims = {paper: base.method.dim * paper // 2048 for paper in published}
    return [
        Row(
            f"d = {dims[paper]}",
            _method(dim=dims[paper], predictor_hidden=max(1, dims[paper] // 4)),  # always d / 4
            value,
            f"{paper} in the paper",
        )
        for paper, value in published.items()
    ]


def _alternation(base: Settings, steps: int) -> list[Row]:
    """Return the rows of Sec. 5.2.

    The target is a momentum encoder that copies the weights every k steps (momentum 0).
    """

    def every(k: int) -> Change:
        return _method(target="momentum", momentum=0.0, momentum_schedule="constant", momentum_every=k)

    return [
        Row("1 step: SimSiam", {}, 68.1),
        Row("10 steps", every(10), 68.7),
        Row("100 steps", every(100), 68.9),
        Row("1 epoch", every(steps), 67.0),
        Row("moving average, no predictor", _method(predictor="none", objective="moving_average"), 55.0),
    ]


def _hub(base: Settings, steps: int) -> list[Row]:
    predictor, stop = {"predictor": "learned"}, {"target": "stop_gradient"}
    return [
        Row("SimCLR", _method(name="simclr"), 66.5),
        Row("SimCLR + predictor", _method(name="simclr", **predictor), 66.4),
        Row("SimCLR + predictor + stop-gradient", _method(name="simclr", **predictor, **stop), 66.0),
        Row("SwAV", _method(name="swav"), 66.5),
        Row("SwAV + predictor", _method(name="swav", **predictor), 65.2),
        Row("SwAV, no stop-gradient", _method(name="swav", target="gradient"), None, "NaN"),
    ]


def _methods(base: Settings, steps: int) -> list[Row]:
    return [
        Row("SimCLR", _method(name="simclr"), 66.5, "batch 4096"),
        Row("MoCo v2", _method(name="moco_v2"), 67.4, "batch 256"),
        Row("BYOL", _method(name="byol"), 66.5, "batch 4096"),
        Row("SwAV", _method(name="swav"), 66.5, "batch 4096"),
        Row("SimSiam", _method(name="simsiam"), 68.1, "batch 256"),
    ]


TABLES = {
    "stop-gradient": Table("Stop-gradient", "Figure 2", _stop_gradient),
    "predictor": Table("Predictor", "Table 1", _predictor),
    "batch-size": Table("Batch size", "Table 2", _batch_size),
    "batch-norm": Table("Batch normalization in the heads", "Table 3 and Sec. 4.4", _batch_norm),
    "similarity": Table("Similarity", "Sec. 4.5", _similarity),
    "symmetry": Table("Symmetrization", "Sec. 4.6", _symmetry),
    "dimension": Table("Output dimension d", "App. B", _dimension),
    "alternation": Table("Alternating optimization", "Sec. 5.2", _alternation),
    "hub": Table("SimSiam as the hub", "Sec. 6.2", _hub),
    "methods": Table("Five methods, two views", "Table 4", _methods),
}
