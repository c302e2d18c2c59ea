"""What a run's encoder is worth on labelled images."""

import html
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from siam.data.chance import permutation
from siam.data.images import Images, open_images
from siam.data.loader import default_workers
from siam.errors import DataError
from siam.evaluate.features import centre_views, extract
from siam.evaluate.knn import knn_predict
from siam.runs import EVALUATIONS, load, write_atomically
from siam.train.device import pick_device, uses_bf16

_HELD_OUT = 0.2


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
    val_images: int
    held_out: bool
    """Whether the validation images were taken from the training ones, for want of a split."""
    seconds: float


def evaluate_knn(
    run: str | Path,
    data: str | Path,
    val: str | Path | None = None,
    k: int = 200,
    temperature: float = 0.1,
    device: str = "auto",
    workers: int = -1,
    console: Console | None = None,
) -> Result:
    """Weighted k-nearest neighbours on the backbone's features, over the whole of both splits.

    val: labelled images apart from `data`; without it the val/ or test/ folder in `data` serves, or a fifth
    of its images is held out. Raises DataError when there are no labels, or the classes of both differ.
    """
    started = time.monotonic()
    where = pick_device(device)
    encoder = load(run, str(where))
    sets = open_images(data)
    queries = sets.val if val is None else open_images(val).train
    for images in (sets.train, queries):
        if images is not None and images.labels is None:
            raise DataError(f"{images.name} has no labels: put its images into one folder per class")
    workers = workers if workers >= 0 else default_workers(where)

    with Progress(console=console or Console(stderr=True)) as bar:

        def features(images: Images) -> tuple[Tensor, Tensor]:
            task = bar.add_task(f"features of {images.name}", total=len(images))
            views = centre_views(images, encoder.image_size, workers=workers)
            x, which = extract(
                encoder, views, where, uses_bf16("auto", where), lambda n: bar.update(task, advance=n)
            )
            assert images.labels is not None
            return x, torch.from_numpy(images.labels[which])

        bank, labels = features(sets.train)
        classes = sets.train.classes
        if queries is None:
            order = torch.from_numpy(permutation(0, 0, len(bank)))
            cut = max(1, int(len(bank) * _HELD_OUT))
            x, truth = bank[order[:cut]], labels[order[:cut]]
            bank, labels = bank[order[cut:]], labels[order[cut:]]
        else:
            x, truth = features(queries)
            if queries.classes != classes:
                odd = sorted(set(queries.classes) ^ set(classes))
                raise DataError(
                    f"the classes of {sets.train.name} and {queries.name} differ in: {', '.join(odd[:5])}"
                )

    scores = knn_predict(bank, labels, x, len(classes), k, temperature)
    right = scores.argmax(dim=1) == truth
    top5 = None
    if len(classes) > 5:
        top5 = float((scores.topk(5, dim=1).indices == truth[:, None]).any(dim=1).double().mean())
    per_class = {
        name: float(right[truth == c].double().mean()) for c, name in enumerate(classes) if (truth == c).any()
    }
    return Result(
        protocol="knn",
        top1=float(right.double().mean()),
        top5=top5,
        interval=wilson(int(right.sum()), len(right)),
        per_class=per_class,
        train_images=len(bank),
        val_images=len(x),
        held_out=queries is None,
        seconds=time.monotonic() - started,
    )


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    z = 1.959964
    p, n = right / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(np.clip(centre - half, 0, 1)), float(np.clip(centre + half, 0, 1))


def save_result(run: str | Path, result: Result, data: str) -> None:
    """Add the result to RUN/evaluations.json, and the run's report shows it."""
    from siam.train.report import write_report

    folder = Path(run)
    file = folder / EVALUATIONS
    before = json.loads(file.read_text()) if file.exists() else []
    text = json.dumps([*before, {"data": data, **asdict(result)}], indent=1)
    write_atomically(file, lambda out: out.write(text.encode()))
    write_report(folder)


def evaluation_html(run: Path) -> str:
    """RUN/evaluations.json as a table, newest last."""
    rows = []
    for result in json.loads((run / EVALUATIONS).read_text()):
        low, high = result["interval"]
        top5 = "" if result["top5"] is None else f"{100 * result['top5']:.1f} %"
        cells = [
            result["protocol"],
            result["data"],
            f"{100 * result['top1']:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f} %",
            top5,
            f"{result['train_images']:,} / {result['val_images']:,}",
        ]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>protocol</th><th>data</th><th>top-1</th><th>95 %</th><th>top-5</th><th>images</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"
