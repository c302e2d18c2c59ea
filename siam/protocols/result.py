"""What an evaluation found, and where it is kept: RUN/evaluations.json, and a section of report.html."""

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siam.errors import RunError
from siam.runs.folder import EVALUATIONS
from siam.system.files import in_turn, write_atomically

_DRAWN_CLASSES = 20  # a confusion matrix with more of them says nothing to the eye


@dataclass(frozen=True)
class Result:
    """A measurement; shares are fractions in [0, 1]."""

    protocol: str
    top1: float
    top5: float | None
    """None with five classes or fewer, where it says nothing."""
    interval: tuple[float, float]
    """95 % interval of top1 (Wilson)."""
    per_class: dict[str, float]
    train_images: int
    """Labelled images that were learnt from."""
    val_images: int
    held_out: bool
    """Whether the validation images were taken from the training ones, for want of a split."""
    seconds: float
    labels: float = 1.0
    """Share of the training labels that was used."""
    encoder: str = "trained"
    """`random` for the network as it was before training."""
    detail: str = ""
    """What the protocol chose or was told: rates, epochs, regularisation."""
    confusion: list[list[int]] | None = None
    """Images of class (row) that were named as class (column)."""


def score(scores: Tensor, truth: Tensor, classes: tuple[str, ...]) -> dict[str, object]:
    """The fields of a Result that follow from scores (M, classes) and the true classes (M,)."""
    named = scores.argmax(dim=1)
    right = named == truth
    top5 = None
    if len(classes) > 5:
        top5 = float((scores.topk(5, dim=1).indices == truth[:, None]).any(dim=1).double().mean())
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((truth, named), torch.ones_like(truth), accumulate=True)
    return {
        "top1": float(right.double().mean()),
        "top5": top5,
        "interval": wilson(int(right.sum()), len(right)),
        "per_class": {
            name: float(row[c] / row.sum())
            for c, (name, row) in enumerate(zip(classes, confusion, strict=True))
            if row.sum() > 0
        },
        "val_images": len(truth),
        "confusion": confusion.tolist(),
    }


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    z = 1.959964
    p, n = right / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(np.clip(centre - half, 0, 1)), float(np.clip(centre + half, 0, 1))


def save_result(run: str | Path, result: Result, data: str) -> None:
    """Add the result to RUN/evaluations.json, and the run's report shows it. Raises RunError."""
    from siam.report.page import write_report

    folder = Path(run)
    file = folder / EVALUATIONS
    try:
        with in_turn(folder):
            before = json.loads(file.read_text()) if file.exists() else []
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            text = json.dumps([*before, {"data": data, "date": now, **asdict(result)}], indent=1)
            write_atomically(file, lambda out: out.write(text.encode()))
            write_report(folder)
    except OSError as error:
        raise RunError(f"the result is not kept: cannot write to {folder}: {error.strerror}") from None


def evaluation_html(run: Path) -> str:
    """RUN/evaluations.json as a table, newest last, and the confusions of the newest."""
    results = json.loads((run / EVALUATIONS).read_text())
    rows = []
    for result in results:
        low, high = result["interval"]
        top5 = "" if result["top5"] is None else f"{100 * result['top5']:.1f} %"
        cells = [
            result["protocol"],
            result["data"],
            f"{100 * result.get('labels', 1.0):g} %",
            result.get("encoder", "trained"),
            f"{100 * result['top1']:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f} %",
            top5,
            f"{result['train_images']:,} / {result['val_images']:,}",
            result.get("detail", ""),
            result.get("date", "")[:16].replace("T", " "),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    titles = ("protocol", "data", "labels", "encoder", "top-1", "95 %", "top-5", "images", "", "when")
    head = "<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>"
    newest = results[-1]
    table = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return table + _confusion_html(newest.get("confusion"), list(newest["per_class"]), newest["protocol"])


def _confusion_html(confusion: list[list[int]] | None, classes: list[str], protocol: str) -> str:
    if confusion is None or not len(classes) == len(confusion) <= _DRAWN_CLASSES:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    rows = []
    for name, counts in zip(classes, confusion, strict=True):
        total = max(1, sum(counts))
        cells = "".join(
            f'<td style="background:rgba(37,99,201,{count / total:.2f})">{count}</td>' for count in counts
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    caption = f"{escape(protocol)}: images of the class on the left that were named as the class above"
    table = f"<table><caption>{caption}</caption><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<div class="scroll confusion">{table}</div>'
