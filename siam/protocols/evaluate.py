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

from siam.data.images import Images, is_labeled
from siam.data.label_file import relabel
from siam.data.labels import align_classes
from siam.data.loader import choose_workers
from siam.data.sources import open_images
from siam.data.subset import Subset, hold_out, labeled, labeled_subset
from siam.data.unreadable import Unreadable, unreadable_among
from siam.errors import DataError
from siam.measure.features import center_views, extract
from siam.measure.knn import knn_predict
from siam.protocols.classifier import Compute, Lost
from siam.protocols.finetune import FinetuneSettings, finetune
from siam.protocols.linear import LinearSettings, linear
from siam.protocols.probe import probe
from siam.protocols.score import score
from siam.protocols.settings import EvaluateSettings
from siam.runs.bars import Bars, print_line, print_sets, running_total
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

    run: run folder, or weights that exist, such as `timm:resnet18.a1_in1k`.
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
    train, val, held_out = _labeled_sets(data, settings, console)
    workers = choose_workers(settings.workers, device)
    compute = Compute(device, uses_bf16("auto", device), workers)
    bars = Bars(console, transient=True)
    with bars.progress:
        task = _Task(encoder, train, val, settings, compute, bars, Lost())
        measured = _PROTOCOLS[protocol](task)
    for images, kind, lost in ((train, "training", task.lost.train), (val, "validation", task.lost.val)):
        if lost:
            count = f"{len(lost)} of {len(images)} {kind} images"
            print_line(console, f"{count} cannot be read and are not used: {lost.first_few()}")
    return Evaluation(
        **score(measured.scores, measured.truth, train.classes),  # type: ignore[arg-type]
        protocol=protocol,
        train_images=len(train) - len(task.lost.train),
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
    lost: Lost

    def features(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Extract the features of all images.

        Returns features (N, D) and labels (N,) of the training images, then features
        (M, D) and labels (M,) of the validation images.
        """
        training = self._features_of(self.train, "training features", self.lost.train)
        return *training, *self._features_of(self.val, "validation features", self.lost.val)

    def _features_of(self, images: Images, name: str, lost: Unreadable) -> tuple[Tensor, Tensor]:
        views = center_views(images, self.encoder.crop, workers=self.compute.workers)
        progress = running_total(partial(self.bars.update, name), len(images))
        x, indices = extract(self.encoder, views, self.compute.device, self.compute.bf16, progress)
        assert images.labels is not None
        lost.update(unreadable_among(images, np.setdiff1d(np.arange(len(images)), indices)))
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
    if k < task.settings.k:
        task.bars.print(f"all {k} training images are neighbors, because k is {task.settings.k}")
    shares = knn_predict(bank, labels, queries, len(task.train.classes), k, temperature)
    scores = torch.where(shares > 0, shares, -torch.inf)  # a class without a vote is never among the top 5
    return _Measured(scores, truth, f"k {k}, T {temperature:g}")


def _probe(task: _Task) -> _Measured:
    features, labels, queries, truth = task.features()
    task.bars.update("logistic regression", 0, 1)
    scores, c = probe(features, labels, queries, len(task.train.classes), task.settings.seed)
    return _Measured(scores, truth, f"C {c:g}")


def _linear(task: _Task) -> _Measured:
    settings: LinearSettings = task.settings_over(LinearSettings())
    scores = linear(task.encoder, task.train, task.val, settings, task.compute, task.report_step, task.lost)
    return _Measured(*scores, f"epochs {settings.epochs}, lr {settings.lr:g}")


def _finetune(task: _Task) -> _Measured:
    settings: FinetuneSettings = task.settings_over(FinetuneSettings())
    scores = finetune(task.encoder, task.train, task.val, settings, task.compute, task.report_step, task.lost)
    rates = f"lr {settings.lr:g}, backbone lr {settings.backbone_lr:g}"
    return _Measured(*scores, f"epochs {settings.epochs}, {rates}")


_PROTOCOLS: dict[str, Callable[[_Task], _Measured]] = {
    "knn": _knn, "probe": _probe, "linear": _linear, "finetune": _finetune,
}  # fmt: skip


def _labeled_sets(
    data: str | Path, settings: EvaluateSettings, console: Console
) -> tuple[Subset, Images, bool]:
    """Return the training set, the validation set, and whether the latter was held out.

    Only labeled images are returned. Raises DataError if there are none, or too few
    classes.
    """
    sets = open_images(data)
    if settings.labels_from is not None:
        sets = relabel(sets, settings.labels_from)
    if settings.val is not None:
        others = open_images(settings.val)
        align_classes(sets.train, others.train, sets.left_out)
        print_sets(console, others)
        sets = replace(sets, val=others.train, folders=(sets.folders[0], ""))
    print_sets(console, sets)
    train, val = labeled(sets.train), sets.val
    if len(train.classes) < 2:
        raise DataError(f"{train.name} has only one class: classification needs at least 2")
    if val is None:
        train, held = hold_out(train, _HELD_OUT)
        return labeled_subset(train, settings.labels, settings.seed), held, True
    if not is_labeled(val):
        where = sets.folders[1] or val.name
        raise DataError(
            f"{data} has labels, but no validation image has one: put the images in {where} into one folder "
            "per class, named as in training, or use other images with --val"
        )
    return labeled_subset(train, settings.labels, settings.seed), labeled(val), False
