"""Run folders: every file that Siam reads of its own making."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.optim import SGD

import siam
from siam.methods import METHODS
from siam.network import Network
from siam.report.page import write_report
from siam.report.pictures import Pictures
from siam.runs.checkpoint import Progress, load_last, restore, save_checkpoint
from siam.runs.encoder import save_encoder
from siam.runs.folder import save_settings
from siam.runs.results import Evaluation, add_evaluation
from siam.settings.pretraining import Settings, ViewSettings
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import TEXT, json_value, line, word

SPECIAL = {".yaml": TEXT, ".json": (json_value, word), ".jsonl": (word, line), ".txt": TEXT}
_METHOD = {"dim": 8, "projector_layers": 2, "projector_hidden": 8, "predictor_hidden": 4}


def _network() -> tuple[Settings, Network]:
    from dataclasses import replace

    method = replace(METHODS["simsiam"], **_METHOD)
    settings = Settings(backbone="resnet10t", width=0.125, views=ViewSettings(size=16), method=method)
    return settings, Network(method, settings.backbone, 16, settings.width, settings.stem)


@cache
def finished() -> Case:
    """Return the files of a finished run."""
    torch.manual_seed(0)
    settings, network = _network()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
        save_checkpoint(run, Progress(step=4, metrics={"knn": 0.5}), network=network, optimizer=optimizer)
        save_encoder(run, network.backbone, settings)
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _records()))
        pictures = rng.integers(0, 256, (2, 2, 8, 8, 3), dtype=np.uint8)
        Pictures(pictures, pictures[0], pictures, ["a", "b"], [["c", "d"], ["e", "f"]]).save(run)
        (run / "unreadable.txt").write_text("photos/a.jpg\tis not an image\n")
        save_settings(run, settings)
        for protocol in ("knn", "probe"):
            evaluation = Evaluation(
                protocol, 0.5, None, (0.4, 0.6), {"cat": 0.5, "dog": 0.5}, 10, 4, False, 1.0,
                confusion=[[1, 1], [1, 1]],
            )  # fmt: skip
            add_evaluation(run, evaluation, "photos/")
        return {
            file.name: file.read_bytes()
            for file in sorted(run.iterdir())
            if not file.name.startswith(".")
        }  # fmt: skip


def _records() -> list[dict[str, object]]:
    start = {"kind": "start", "step": 0, "epoch": 0, "images": 8, "machine": "here"}
    steps: list[dict[str, object]] = [
        {"kind": "step", "step": n, "loss": -0.1 * n, "std": 0.9, "lr": 0.05, "pairs_per_second": 90.0}
        for n in range(1, 5)
    ]
    epochs: list[dict[str, object]] = [
        {"kind": "epoch", "step": 2 * n, "epoch": n - 1, "loss": -0.2, "std": 0.9, "knn": 0.5, "rank": 3.0}
        for n in (1, 2)
    ]
    end = {"kind": "end", "step": 4, "steps": 4, "verdict": "healthy", "seconds": 1.0, "knn": 0.5}
    return [start, *steps, *epochs, end]


def seeds() -> dict[str, Case]:
    """Return the run once for each of its files, so that each is mutated as often."""
    run = finished()
    return {name: {f"fixed/{n}" if n != name else n: data for n, data in run.items()} for name in run}


def check(case: Case, folder: Path) -> None:
    write({name.removeprefix("fixed/"): data for name, data in case.items()}, folder)
    (mutated,) = (name for name in case if not name.startswith("fixed/"))
    if mutated == "encoder.safetensors":
        siam.load(folder)
    elif mutated == "checkpoint.pt":
        _, network = _network()
        optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9)
        contents, _ = load_last(folder)
        restore(contents, folder, network=network, optimizer=optimizer)
    else:
        write_report(folder)
