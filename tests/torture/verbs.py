"""The verbs that are tortured: a command of seconds for each, and its result as plain values to compare."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from tests.conftest import TINY, run_cli, save_images
from tests.transfer.conftest import LITTLE


@dataclass(frozen=True)
class World:
    """What the runs share: labeled images, annotated images, and a finished run."""

    classes: Path
    voc: Path
    run: Path


def make_world(folder: Path) -> World:
    world = World(folder / "classes", folder / "voc", folder / "run")
    for split, count in (("train", 12), ("val", 6)):
        for name, level in (("dark", 60), ("light", 200)):
            images = world.classes / split / name
            images.mkdir(parents=True)
            save_images(images, count, seed=level, level=level)
    _annotate(world.voc)
    run_cli("pretrain", world.classes, *TINY, "--epochs", 1, "--out", world.run, check=0)
    return world


def _annotate(folder: Path) -> None:
    """Write images of one bright rectangle each, in VOC format."""
    rng = random.Random(0)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for part, count in (("trainval", 6), ("test", 4)):
        names = [f"{part}{n}" for n in range(count)]
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names))
        for name in names:
            left, top = rng.randrange(4, 40), rng.randrange(4, 40)
            box = (left, top, left + rng.randrange(20, 50), top + rng.randrange(20, 50))
            image = Image.new("RGB", (96, 96), (40, 60, 80))
            ImageDraw.Draw(image).rectangle(box, fill=(220, 210, 60))
            image.save(folder / "JPEGImages" / f"{name}.jpg")
            sides = "".join(
                f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            (folder / "Annotations" / f"{name}.xml").write_text(
                "<annotation><size><width>96</width><height>96</height></size>"
                f"<object><name>thing</name><bndbox>{sides}</bndbox></object></annotation>"
            )


@dataclass(frozen=True)
class Verb:
    """A command to torture."""

    args: Callable[[World, Path], list[Any]]
    """Arguments, given an output folder."""
    result: Callable[[Path], Any]
    """What an equal run has equal, read from the output folder."""
    data: str = "classes"
    """The folder of `World` that it reads images from; "" for none."""
    again: tuple[str, ...] = ()
    """Flags to add when the command is repeated, if it had begun to train."""
    helpers: bool = True
    """Whether other processes work for it."""
    copies_run: bool = False
    """Whether it writes into the run, so that it needs one of its own."""


def _weights(file: Path) -> dict[str, Any]:
    return {key: (value.shape, value.tobytes()) for key, value in load_file(file).items()}


def _records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    times = ("seconds", "pairs_per_second", "images_per_second")
    return [
        {k: v for k, v in r.items() if k not in times} for r in lines if r["kind"] in ("step", "epoch", "end")
    ]


def _pretrained(out: Path) -> Any:
    return _weights(out / "run" / "encoder.safetensors"), _records(out / "run")


def _embedded(out: Path) -> Any:
    table = pq.read_table(out / "vectors.parquet")
    return table.column("path").to_pylist(), np.stack(table.column("embedding").to_numpy()).tobytes()


def _evaluated(out: Path) -> Any:
    last = json.loads((out / "run" / "evaluations.json").read_text())[-1]
    return {k: v for k, v in last.items() if k not in ("seconds", "date")}


def _files(out: Path) -> Any:
    return {
        str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in out.rglob("*")
        if f.is_file()
    }


def _transferred(out: Path) -> Any:
    plain = json.loads((out / "detector" / "result.json").read_text())
    return {k: v for k, v in plain.items() if k not in ("seconds", "out")}, _records(out / "detector")


def _reproduced(out: Path) -> Any:
    rows = json.loads((out / "table" / "table.json").read_text())["rows"]
    return [[{k: s[k] for k in ("knn", "loss", "verdict") if k in s} for s in row["seeds"]] for row in rows]


def _pretrain(*flags: Any) -> Callable[[World, Path], list[Any]]:
    train = [*TINY, "--epochs", 3, "--checkpoint.every", 2, "--loader.cache", "none", "--loader.workers", 1]
    return lambda world, out: [
        "pretrain", world.classes, *train, *flags, "--out", out / "run", "--resume", "auto"
    ]  # fmt: skip


VERBS = {
    "pretrain": Verb(_pretrain(), _pretrained),
    "pretrain x2": Verb(_pretrain("--device", "cpu", "--devices", 2, "--timeout", "60s"), _pretrained),
    "embed": Verb(
        lambda world, out: [
            "embed", world.run, world.classes, "--out", out / "vectors.parquet", "--batch-size", 2,
            "--workers", 1,
        ],
        _embedded,
    ),
    "evaluate": Verb(
        lambda world, out: [
            "evaluate", out / "run", world.classes, "--protocol", "linear", "--epochs", 20, "--batch-size", 8,
            "--workers", 1,
        ],
        _evaluated,
        copies_run=True,
    ),
    "export": Verb(
        lambda world, out: ["export", world.run, "--format", "safetensors", "--out", out / "e.safetensors"],
        _files, data="", helpers=False,
    ),
    "export onnx": Verb(
        lambda world, out: ["export", world.run, "--format", "onnx", "--out", out / "encoder.onnx"],
        _files, data="", helpers=False,
    ),
    "transfer": Verb(
        lambda world, out: [
            "transfer", world.run, world.voc, *LITTLE, "--workers", 1, "--iterations", 6,
            "--checkpoint.every", 2, "--out", out / "detector",
        ],
        _transferred,
        data="voc",
        again=("--resume",),
    ),
    "reproduce": Verb(
        lambda world, out: ["reproduce", "similarity", world.classes, *TINY, "--out", out / "table"],
        _reproduced,
        helpers=False,
    ),
}  # fmt: skip
