"""Results of the verbs: those stored in a run folder, and those of comparisons."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from siam.errors import RunError, first_line
from siam.runs.folder import EVALUATIONS
from siam.settings.checks import require_types
from siam.system.files import in_turn, regular, write_atomically

TRANSFER, RESULT, TRUTH = "transfer.yaml", "result.json", "truth.json"
BOXES, MASKS = "predictions-boxes.json", "predictions-masks.json"
DRAWN = "drawn"

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """The result of `siam evaluate`. Accuracies are fractions in [0, 1]."""

    protocol: str
    top1: float
    top5: float | None
    """None with five or fewer classes, because top-5 accuracy would always be 1."""
    interval: tuple[float, float]
    """95 % confidence interval for top1 (Wilson)."""
    per_class: dict[str, float]
    """Accuracy for each class that has validation images."""
    train_images: int
    """Number of labeled images used to fit the classifier."""
    val_images: int
    held_out: bool
    """True if training images were held out for validation, because the dataset has no validation split."""
    seconds: float
    labels: float = 1.0
    """Fraction of the training labels used."""
    encoder: str = "trained"
    """`trained`, or `random` for the randomly initialized encoder."""
    detail: str = ""
    """Hyperparameters set for or selected by the protocol: learning rates, epochs, regularization."""
    confusion: list[list[int]] | None = None
    """Confusion matrix: entry [i][j] is the number of images of class i predicted as class j."""


@dataclass(frozen=True, kw_only=True)
class SavedEvaluation(Evaluation):
    """An entry in evaluations.json."""

    data: str
    """The dataset, as given to `siam evaluate`."""
    date: str
    """Time when the entry was saved, in ISO 8601 format with the UTC offset."""


UNTRAINED: Final = "untrained"
PIXELS: Final = "pixels"
"""Names of the encoders that cost nothing, for `siam compare`."""


@dataclass(frozen=True)
class Compared:
    """One encoder in the result of `siam compare`. Accuracies are fractions in [0, 1]."""

    encoder: str
    """As given: a run folder, weights that exist, `untrained` or `pixels`."""
    kind: str
    """`run`, `pretrained` (weights that exist), `untrained` or `pixels`."""
    network: str
    """The architecture; "" for raw pixels."""
    image_size: int
    """Side length of the images that the encoder takes, in pixels."""
    features: int
    """Number of features per image, D."""
    parameters: int
    images_per_second: float | None
    """Speed of the network alone; None for raw pixels."""
    metrics: dict[str, float | None]
    """Each metric by its name; None if it cannot be measured, for example without labels."""
    probe: float | None
    """Accuracy of a logistic regression on the features; None without labels."""
    queries: int
    """Number of labeled images that kNN and the probe classified."""


@dataclass(frozen=True)
class Precision:
    """Average precision (AP) in [0, 1]; None if the test set has no objects of that size."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    medium: float | None
    large: float | None
    per_class: dict[str, float]
    """AP for each class in the test set."""


PRECISIONS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "small": "small", "medium": "medium", "large": "large",
}  # fmt: skip
"""Display names of the `Precision` fields."""


@dataclass(frozen=True)
class TransferResult:
    """The result of `siam transfer`."""

    out: str
    data: str
    layout: str
    """Annotation format: `voc` or `coco`."""
    years: int
    """Number of VOC years in the training set."""
    train_images: int
    test_images: int
    boxes: Precision
    masks: Precision | None
    """Mask AP; None for detection, which predicts no masks."""
    iterations: int
    seconds: float
    skipped: dict[str, int]
    """Skipped annotations and images: reason -> count."""

    def kinds(self) -> dict[str, Precision]:
        """Return the AP values for boxes and, if the model predicts masks, for masks."""
        return {"boxes": self.boxes} | ({} if self.masks is None else {"masks": self.masks})

    def flat(self) -> dict[str, float | None]:
        """Return AP values and duration as a flat dict for metrics.jsonl, with keys such as boxes_ap50."""
        return {
            f"{kind}_{name}": getattr(precision, name)
            for kind, precision in self.kinds().items()
            for name in PRECISIONS
        } | {"seconds": self.seconds}


def load_evaluations(folder: Path) -> list[SavedEvaluation]:
    """Load the entries in evaluations.json, oldest first. Raises RunError if the file is corrupt."""
    file = folder / EVALUATIONS
    if not file.exists():
        return []
    return _read(file, lambda plain: [_checked(SavedEvaluation(**entry)) for entry in plain])


def add_evaluation(run: str | Path, evaluation: Evaluation, data: str) -> None:
    """Append an evaluation to evaluations.json; safe to call from several processes at once. Raises RunError.

    data: the dataset, as given by the user.
    """
    folder = Path(run).expanduser()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        with in_turn(folder):
            entries = [*load_evaluations(folder), SavedEvaluation(**asdict(evaluation), data=data, date=now)]
            _write(folder / EVALUATIONS, [asdict(entry) for entry in entries])
    except OSError as error:
        raise RunError(f"the result was not saved: cannot write to {folder}: {error.strerror}") from None


def load_transfer(folder: Path) -> TransferResult | None:
    """Load the result.json of a transfer run, or return None if the run is unfinished.

    Raises RunError if the file is corrupt.
    """
    file = folder / RESULT
    return _read(file, _transfer_result) if file.exists() else None


def save_transfer(folder: Path, result: TransferResult) -> None:
    """Write the result.json of a transfer run."""
    _write(folder / RESULT, asdict(result))


def _transfer_result(plain: dict[str, Any]) -> TransferResult:
    precisions = {
        kind: None if plain[kind] is None else _checked(Precision(**plain[kind]))
        for kind in ("boxes", "masks")
    }
    return _checked(TransferResult(**{**plain, **precisions}))


def _checked(record: T) -> T:
    require_types(record)
    return record


def _read(file: Path, build: Callable[[Any], T]) -> T:
    try:
        return build(json.loads(regular(file).read_bytes()))
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise RunError(
            f"{file} cannot be read ({first_line(error)}): move or delete it to continue without it"
        ) from None


def _write(file: Path, plain: Any) -> None:
    text = json.dumps(plain, indent=1)
    write_atomically(file, lambda out: out.write(text.encode()))
