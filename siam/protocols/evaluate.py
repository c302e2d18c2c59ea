"""Implement `siam evaluate`: evaluate an encoder on labeled images."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from siam.data.images import Images
from siam.data.loader import choose_workers
from siam.data.sources import open_images
from siam.data.subset import Subset, hold_out, labeled_subset
from siam.errors import DataError
from siam.measure.features import center_views, extract
from siam.measure.knn import knn_predict
from siam.protocols.classifier import Compute
from siam.protocols.finetune import FinetuneSettings, finetune
from siam.protocols.linear import LinearSettings, linear
from siam.protocols.probe import probe
from siam.protocols.score import score
from siam.protocols.settings import EvaluateSettings
from siam.runs.bars import Bars, running_total
from siam.runs.encoder import Encoder, load, untrained
from siam.runs.results import Evaluation
from siam.settings.overrides import Overrides
from siam.system.device import find_device, float32_by_default, uses_bf16

_HELD_OUT = 0.2


@float32_by_default()
def evaluate(
    run: str | Path,
    data: str | Path,
    protocol: str = "knn",
    *,
    console: Console | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluate the encoder of `run` on the labeled images in `data`.

    data: labeled images. The val/ or test/ subfolder is used for validation; if neither
    exists, 20 % of the images are held out.
    protocol: knn, probe, linear or finetune.
    options: other fields of `EvaluateSettings`, such as labels=0.1 or val="other/".

    Returns top-1 accuracy with a 95 % confidence interval, top-5 and per-class
    accuracy, and the confusion matrix; accuracies are in [0, 1]. The run is not
    modified. Raises SettingsError, RunError (no encoder, or the loss diverged) or
    DataError (no labels, mismatched classes, or no readable images).
    """
    started = time.monotonic()
    settings = Overrides({"protocol": protocol, **options}).over(EvaluateSettings())
    console = console or Console(stderr=True)
    device = find_device(settings.device)
    encoder = (untrained if settings.untrained else load)(run, str(device))
    train, val, held_out = _labeled_sets(data, settings)
    absent = sorted(set(train.classes) - {train.classes[i] for i in set(np.asarray(val.labels).tolist())})
    if absent:
        console.print(f"no validation images for {', '.join(absent[:5])}: these classes are not evaluated")
    workers = choose_workers(settings.workers, device)
    compute = Compute(device, uses_bf16("auto", device), workers)
    bars = Bars(console, transient=True)
    with bars.progress:
        measured = _PROTOCOLS[protocol](_Task(encoder, train, val, settings, compute, bars))
    return Evaluation(
        **score(measured.scores, measured.truth, train.classes),  # type: ignore[arg-type]
        protocol=protocol,
        train_images=len(train),
        held_out=held_out,
        seconds=time.monotonic() - started,
        labels=settings.labels,
        encoder="random" if settings.untrained else "trained",
        detail=measured.detail,
    )


@dataclass(frozen=True)
class _Task:
    """Inputs to a protocol: encoder, images, settings, device and progress bars."""

    encoder: Encoder
    train: Subset
    val: Images
    settings: EvaluateSettings
    compute: Compute
    bars: Bars

    def features(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Extract the features of all images.

        Returns features (N, D) and labels (N,) of the training images, then features
        (M, D) and labels (M,) of the validation images.
        """
        training = self._features_of(self.train, "training features")
        return *training, *self._features_of(self.val, "validation features")

    def _features_of(self, images: Images, name: str) -> tuple[Tensor, Tensor]:
        views = center_views(images, self.encoder.image_size, workers=self.compute.workers)
        progress = running_total(partial(self.bars.update, name), len(images))
        x, indices = extract(self.encoder, views, self.compute.device, self.compute.bf16, progress)
        assert images.labels is not None
        return x, torch.from_numpy(images.labels[indices])

    def settings_over(self, defaults: Any) -> Any:
        """Return `defaults`, a protocol's settings, overridden by the user's values."""
        given = {name: getattr(self.settings, name) for name in vars(defaults)}
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})

    def report_step(self, step: int, total: int, loss: float) -> None:
        self.bars.update(self.settings.protocol, step, total, [f"loss {loss:.3f}"])


@dataclass(frozen=True)
class _Measured:
    scores: Tensor
    """Class scores (M, classes)."""
    truth: Tensor
    """True classes (M,)."""
    detail: str
    """The hyperparameters, as text for the report."""


def _knn(task: _Task) -> _Measured:
    bank, labels, queries, truth = task.features()
    k, temperature = min(task.settings.k, len(bank)), task.settings.temperature
    scores = knn_predict(bank, labels, queries, len(task.train.classes), k, temperature)
    return _Measured(scores, truth, f"k {k}, T {temperature:g}")


def _probe(task: _Task) -> _Measured:
    features, labels, queries, truth = task.features()
    task.bars.update("logistic regression", 0, 1)
    scores, c = probe(features, labels, queries, len(task.train.classes), task.settings.seed)
    return _Measured(scores, truth, f"C {c:g}")


def _linear(task: _Task) -> _Measured:
    settings: LinearSettings = task.settings_over(LinearSettings())
    scores = linear(task.encoder, task.train, task.val, settings, task.compute, task.report_step)
    return _Measured(*scores, f"epochs {settings.epochs}, lr {settings.lr:g}")


def _finetune(task: _Task) -> _Measured:
    settings: FinetuneSettings = task.settings_over(FinetuneSettings())
    scores = finetune(task.encoder, task.train, task.val, settings, task.compute, task.report_step)
    rates = f"lr {settings.lr:g}, backbone lr {settings.backbone_lr:g}"
    return _Measured(*scores, f"epochs {settings.epochs}, {rates}")


_PROTOCOLS: dict[str, Callable[[_Task], _Measured]] = {
    "knn": _knn, "probe": _probe, "linear": _linear, "finetune": _finetune,
}  # fmt: skip


def _labeled_sets(data: str | Path, settings: EvaluateSettings) -> tuple[Subset, Images, bool]:
    """Return the training set, the validation set, and whether the latter was held out.

    Raises DataError if labels are missing, or if the classes differ or are too few.
    """
    sets = open_images(data)
    val = sets.val if settings.val is None else open_images(settings.val).train
    for images in (sets.train, val):
        if images is not None and images.labels is None:
            raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    if val is not None and val.classes != sets.train.classes:
        differing = sorted(set(val.classes) ^ set(sets.train.classes))
        raise DataError(
            f"{sets.train.name} and {val.name} have different classes ({', '.join(differing[:5])}): "
            "use the same class folders in both"
        )
    if len(sets.train.classes) < 2:
        raise DataError(f"{sets.train.name} has only one class: classification needs at least 2")
    if val is None:
        train, held = hold_out(sets.train, _HELD_OUT)
        return labeled_subset(train, settings.labels, settings.seed), held, True
    return labeled_subset(sets.train, settings.labels, settings.seed), val, False
