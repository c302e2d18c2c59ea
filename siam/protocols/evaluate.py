"""What a run's encoder is worth on labelled images, by one of four protocols."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from siam.data.images import Images
from siam.data.loader import default_workers
from siam.data.sources import open_images
from siam.data.subset import Subset, hold_out, labeled_subset
from siam.errors import DataError, SettingsError, did_you_mean
from siam.measure.features import center_views, extract
from siam.measure.knn import knn_predict
from siam.protocols.finetune import FinetuneSettings, finetune
from siam.protocols.linear import LinearSettings, linear
from siam.protocols.probe import probe
from siam.protocols.result import Result, score
from siam.runs.encoder import Encoder, load, untrained
from siam.system.device import find_device, uses_bf16

Protocol = Literal["knn", "probe", "linear", "finetune"]

_HELD_OUT = 0.2


@dataclass(frozen=True)
class EvaluateSettings:
    """How to measure. What a protocol has no use for is ignored; None takes the protocol's own default."""

    protocol: Protocol = "knn"
    """knn: neighbours vote. probe: logistic regression. linear: the paper's protocol. finetune: all of it."""
    val: str | None = None
    """Labelled images to classify, when they lie elsewhere."""
    labels: float = 1.0
    """Share of the training labels to use, the same of every class (semi-supervised: 0.01 or 0.1)."""
    untrained: bool = False
    """Measure the network as it was before training, to compare."""
    k: int = 200
    """Neighbours that vote (knn)."""
    temperature: float = 0.1
    """Temperature of the vote's weights (knn)."""
    epochs: int | None = None
    """Passes over the labelled images (linear: 90, finetune: 30)."""
    batch_size: int | None = None
    """Images in a step (linear: 4096, finetune: 256)."""
    lr: float | None = None
    """For a batch of 256: of the classifier (linear: 0.02 by LARS, released code 0.1; finetune: 0.5)."""
    backbone_lr: float | None = None
    """For a batch of 256: of the backbone (finetune: 0.05)."""
    seed: int = 0
    """Of crops, order, and the share of labels."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    workers: int = -1
    """Processes that decode; -1 chooses."""

    def __post_init__(self) -> None:
        known = get_args(Protocol)
        if self.protocol not in known:
            hint = did_you_mean(self.protocol, known)
            raise SettingsError(f"unknown protocol '{self.protocol}'{hint}; there are {', '.join(known)}")
        for name in ("k", "epochs", "batch_size", "temperature", "lr", "backbone_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} must be above 0, got {value}")
        if self.batch_size == 1:
            raise SettingsError("batch_size must be at least 2, got 1")
        if not 0 < self.labels <= 1:
            raise SettingsError(f"labels must be a share in (0, 1], got {self.labels:g}")


def evaluate(
    run: str | Path,
    data: str | Path,
    asked: EvaluateSettings | None = None,
    console: Console | None = None,
    **options: Any,
) -> Result:
    """Measure the encoder of `run` on the labelled images in `data`.

    options: fields of `EvaluateSettings`, such as protocol="linear". Without `val`, the val/ or test/ folder
    in `data` serves, or a fifth of its images is held out. Raises SiamError: no labels, other classes, ...
    """
    started = time.monotonic()
    asked = replace(asked or EvaluateSettings(), **options)
    device = find_device(asked.device)
    encoder = (untrained if asked.untrained else load)(run, str(device))
    train, val, held_out = _labeled(data, asked)
    console = console or Console(stderr=True)
    absent = sorted(set(train.classes) - {train.classes[i] for i in set(np.asarray(val.labels).tolist())})
    if absent:
        console.print(f"no validation images of {', '.join(absent[:5])}: accuracy is of the other classes")
    measure = Measure(asked, encoder, device, console)
    scores, truth, detail = getattr(measure, asked.protocol)(train, val)
    return Result(
        **score(scores, truth, train.classes),  # type: ignore[arg-type]
        protocol=asked.protocol,
        train_images=len(train),
        held_out=held_out,
        seconds=time.monotonic() - started,
        labels=asked.labels,
        encoder="random" if asked.untrained else "trained",
        detail=detail,
    )


class Measure:
    """The protocols: each takes labelled images, and gives scores (M, classes), truth (M,), what it chose."""

    def __init__(
        self, asked: EvaluateSettings, encoder: Encoder, device: torch.device, console: Console
    ) -> None:
        self.asked, self.encoder, self.device, self.console = asked, encoder, device, console
        self.bf16 = uses_bf16("auto", device)
        self.workers = asked.workers if asked.workers >= 0 else default_workers(device)

    def knn(self, train: Subset, val: Images) -> tuple[Tensor, Tensor, str]:
        (bank, labels), (queries, truth) = self._features(train, val)
        k = min(self.asked.k, len(bank))
        scores = knn_predict(bank, labels, queries, len(train.classes), k, self.asked.temperature)
        return scores, truth, f"k {k}, T {self.asked.temperature:g}"

    def probe(self, train: Subset, val: Images) -> tuple[Tensor, Tensor, str]:
        (features, labels), (queries, truth) = self._features(train, val)
        with self.console.status("logistic regression"):
            scores, chosen = probe(features, labels, queries, len(train.classes), self.asked.seed)
        return scores, truth, f"C {chosen:g}"

    def linear(self, train: Subset, val: Images) -> tuple[Tensor, Tensor, str]:
        settings = self._settings(LinearSettings())
        with self._bar("linear") as progress:
            scores, truth = linear(
                self.encoder, train, val, settings, self.device, self.bf16, self.workers, progress
            )
        return scores, truth, f"epochs {settings.epochs}, lr {settings.lr:g}"

    def finetune(self, train: Subset, val: Images) -> tuple[Tensor, Tensor, str]:
        settings = self._settings(FinetuneSettings())
        with self._bar("finetune") as progress:
            scores, truth = finetune(
                self.encoder, train, val, settings, self.device, self.bf16, self.workers, progress
            )
        rates = f"lr {settings.lr:g}, backbone lr {settings.backbone_lr:g}"
        return scores, truth, f"epochs {settings.epochs}, {rates}"

    def _settings(self, defaults: Any) -> Any:
        """The protocol's own settings, and what was asked for in their place."""
        given = {name: getattr(self.asked, name) for name in vars(defaults)}
        return replace(defaults, **{name: value for name, value in given.items() if value is not None})

    def _features(self, *sets: Images) -> list[tuple[Tensor, Tensor]]:
        """Features (N, D) and labels (N,) of each set."""
        found = []
        with Progress(console=self.console) as bar:
            for images in sets:
                task = bar.add_task(f"features of {images.name}", total=len(images))
                views = center_views(images, self.encoder.image_size, workers=self.workers)
                x, which = extract(
                    self.encoder,
                    views,
                    self.device,
                    self.bf16,
                    lambda n: bar.update(task, advance=n),  # noqa: B023
                )
                assert images.labels is not None
                found.append((x, torch.from_numpy(images.labels[which])))
        return found

    def _bar(self, name: str) -> "_StepBar":
        return _StepBar(name, self.console)


class _StepBar:
    """with _StepBar(...) as progress: progress(step, total, loss)."""

    def __init__(self, name: str, console: Console) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(TextColumn("{task.description}"), *columns, console=console)
        self.task = self.bar.add_task(name, total=None, state="")

    def __enter__(self) -> Any:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, step: int, total: int, loss: float) -> None:
        self.bar.update(self.task, total=total, completed=step, state=f"loss {loss:.3f}")


def _labeled(data: str | Path, asked: EvaluateSettings) -> tuple[Subset, Images, bool]:
    """The labelled share of the training images, the validation images, and whether those were held out."""
    sets = open_images(data)
    val = sets.val if asked.val is None else open_images(asked.val).train
    for images in (sets.train, val):
        if images is not None and images.labels is None:
            raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    if val is not None and val.classes != sets.train.classes:
        odd = sorted(set(val.classes) ^ set(sets.train.classes))
        raise DataError(f"the classes of {sets.train.name} and {val.name} differ in: {', '.join(odd[:5])}")
    if len(sets.train.classes) < 2:
        raise DataError(f"{sets.train.name} has a single class: there is nothing to tell apart")
    if val is None:
        train, held = hold_out(sets.train, _HELD_OUT)
        return labeled_subset(train, asked.labels, asked.seed), held, True
    return labeled_subset(sets.train, asked.labels, asked.seed), val, False
