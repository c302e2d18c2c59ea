"""Cost as sets, batches, views and workers grow, and start-up time.

    python benchmarks/growth.py [FOLDER] [--parts images batch resolution workers memory index start]
        [--paths 10000000] [--files 1000000] [--batches 10000] [--lightly-train PYTHON] [--out FILE]

images      time per image to open a folder and to shuffle an epoch, by size of the set
batch       throughput from files to step, ResNet-18 at 128 px, by batch size
resolution  throughput of the step and of a worker, by size of the views
workers     throughput of two 224 px crops per image, by number of workers
memory      memory of this process and its workers over --batches batches
index       memory of an index of --paths paths
start       time of `siam --help`, and of `siam pretrain` up to its first step, on the demo set and on --files
            photographs
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import alternating, arguments, in_own_process, memory_mb, photographs, report, save, show
from training import our_step, random_views, settings_for, wait

from siam.data.images import Images
from siam.data.loader import ViewLoader, default_workers
from siam.data.order import Order
from siam.data.packed import PackedStrings
from siam.data.random import permutation
from siam.data.sources import open_images
from siam.data.views import ViewBatches, view_batches
from siam.data.workers import batches_of
from siam.settings.pretraining import LoaderSettings, Settings
from siam.system.device import find_device, tune_process

PARTS = ("images", "batch", "resolution", "workers", "memory", "index", "start")


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--paths", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--lightly-train", metavar="PYTHON", help="an interpreter with lightly-train")
    args = parser.parse_args()
    device = find_device(args.device)
    tune_process(device)
    with photographs(args.folder, 240) as folder:
        measured: dict[str, Callable[[], dict[str, Any]]] = {
            "images": lambda: by_images(folder, args.files),
            "batch": lambda: by_batch(folder, device, args.rounds),
            "resolution": lambda: by_resolution(folder, device, args.rounds),
            "workers": lambda: by_workers(folder, device, args.rounds),
            "memory": lambda: memory_over_batches(folder, args.batches),
            "index": lambda: in_own_process(index_memory, args.paths),
            "start": lambda: startup_time(folder, args.files, args.lightly_train),
        }
        parts = [measured[name]() for name in args.parts]
    for part in parts:
        if "columns" in part:
            show(part["title"], part["columns"])
    save(args.out, parts, threads=torch.get_num_threads())


def by_images(folder: Path, largest: int) -> dict[str, Any]:
    opening, order = {}, {}
    for count in itertools.takewhile(lambda n: n <= largest, (10**k for k in range(3, 9))):
        with many(folder, count) as grown:
            start = time.perf_counter()
            images = open_images(grown).train
            opening[f"{count:,}"] = (time.perf_counter() - start) / count * 1e6
        start = time.perf_counter()
        permutation(0, 0, len(images))
        order[f"{count:,}"] = (time.perf_counter() - start) / count * 1e6
    return {"title": "microseconds per image", "columns": {"open": opening, "order": order}}


def by_batch(folder: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    images = open_images(folder).train
    turns = {}
    for batch in (8, 16, 32, 64, 128):
        settings = settings_for("resnet18", 128, batch)
        turns[f"batch {batch}"] = loop(images, settings, device, steps=max(1, 64 // batch))
    return report("files to step, ResNet-18, 128 px", "pairs/s", alternating(turns, rounds), "batch 32")


def loop(images: Images, settings: Settings, device: torch.device, steps: int) -> Callable[[], Any]:
    """Build a candidate that trains from files, timed after the first step."""
    settings = replace(settings, loader=LoaderSettings(cache="none"))
    step = our_step(settings, device)

    def turn() -> tuple[int, float]:
        batches = ViewLoader(images, settings, device).batches()
        for number, batch in enumerate(batches):
            step(*batch.views)
            wait(device)
            if number == 0:
                start = time.perf_counter()
            if number == steps:
                return steps * settings.batch_size, time.perf_counter() - start
        raise AssertionError("batches never end")

    return turn


def by_resolution(folder: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    images = open_images(folder).train
    chosen = np.arange(32)
    steps, workers = {}, {}
    for size in (64, 96, 128, 160, 224, 320):
        settings = settings_for("resnet18", size, 8)
        step, views = our_step(settings, device), random_views(settings, device, torch.channels_last)
        crops = ViewBatches(images, settings.views, count=2, seed=0)

        def train(step: Any = step, views: Any = views) -> int:
            step(*views)
            wait(device)
            return len(views[0])

        steps[f"{size} px"] = train
        workers[f"{size} px"] = lambda crops=crops: len(crops[0, 0, chosen].indices)
    columns = {
        "step, pairs/s": alternating(steps, rounds),
        "worker, images/s": alternating(workers, rounds),
    }
    return {"title": "ResNet-18, batch 8, and one worker", "columns": columns}


def by_workers(folder: Path, device: torch.device, rounds: int) -> dict[str, Any]:
    images = open_images(folder).train
    settings = settings_for("resnet18", 224, 32)
    turns = {}
    for workers in sorted({0, 1, 2, default_workers(device), (os.cpu_count() or 1)}):
        chosen = replace(settings, loader=LoaderSettings(workers=workers, cache="none"))
        turns[f"{workers} workers"] = crops_only(images, chosen)
    return report("two 224 px crops, without a network", "images/s", alternating(turns, rounds), "0 workers")


def crops_only(images: Images, settings: Settings) -> Callable[[], Any]:
    """Build a candidate that fetches uint8 batches from workers, timed after the first batch."""
    dataset, order = view_batches(images, settings, count=2), Order(len(images), settings)

    def turn() -> tuple[int, float]:
        batches = batches_of(dataset, order, settings.loader.workers, prefetch=4)
        next(batches)
        start = time.perf_counter()
        for _ in range(12):
            next(batches)
        return 12 * settings.batch_size, time.perf_counter() - start

    return turn


def memory_over_batches(folder: Path, count: int) -> dict[str, Any]:
    """Measure memory while batches pass, of small views because there are many batches."""
    settings = settings_for("resnet18", 32, 8)
    settings = replace(settings, loader=LoaderSettings(workers=1, cache="none"))
    batches = ViewLoader(open_images(folder).train, settings, torch.device("cpu")).batches()
    here, workers = {}, {}
    marks = {count // 10, count // 4, count // 2, count}
    for number, _ in zip(range(1, count + 1), batches, strict=False):
        if number in marks:
            here[f"{number:,} batches"] = memory_mb("VmRSS")
            workers[f"{number:,} batches"] = children_mb()
    return {"title": "MB while batches pass", "columns": {"this process": here, "its workers": workers}}


def children_mb() -> float:
    """Return the resident memory of all descendants of this process (Linux), in MB."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:  # it has ended
            continue
        parents[int(fields["Pid"])] = (int(fields["PPid"]), int(fields.get("VmRSS", "0 kB").split()[0]))
    total, below = 0, {os.getpid()}
    while below:
        below = {pid for pid, (parent, _) in parents.items() if parent in below}
        total += sum(parents[pid][1] for pid in below)
    return total / 1024


def index_memory(count: int) -> dict[str, Any]:
    before = memory_mb("VmRSS")
    names = PackedStrings(f"class-{i % 1000:04d}/photograph-{i:08d}.jpg" for i in range(count))
    held = memory_mb("VmRSS") - before
    assert len(names) == count
    columns = {"MB": {f"{count:,} paths": held}, "bytes per path": {f"{count:,} paths": held * 2**20 / count}}
    return {"title": "an index of paths", "columns": columns}


def startup_time(folder: Path, files: int, peer: str | None) -> dict[str, Any]:
    siam = [sys.executable, "-m", "siam"]
    seconds = {"siam --help": seconds_of([*siam, "--help"])}
    if peer:
        seconds["lightly-train --help"] = seconds_of([str(Path(peer).with_name("lightly-train")), "--help"])
    seconds["siam pretrain, the demo set"] = first_step([*siam, "pretrain"])
    with many(folder, files) as grown:
        small = ["--backbone", "resnet18", "--views.size", "64", "--batch-size", "16"]
        seconds[f"siam pretrain, {files:,} files"] = first_step([*siam, "pretrain", str(grown), *small])
    return {"title": "start-up time", "columns": {"seconds": seconds}}


def seconds_of(command: list[str]) -> float:
    """Return the median time of three calls."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[1]


def first_step(command: list[str]) -> float:
    """Return the seconds until metrics.jsonl holds a step."""
    with tempfile.TemporaryDirectory() as temporary:
        metrics = Path(temporary) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        run = subprocess.Popen(
            [*command, "--out", str(metrics.parent), "--monitor.log-every", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            while not (metrics.exists() and has_a_step(metrics)):
                if run.poll() is not None:
                    raise SystemExit(
                        f"siam pretrain ended before its first step: {run.communicate()[1].decode()}"
                    )
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            run.terminate()
            run.wait()


def has_a_step(metrics: Path) -> bool:
    lines = metrics.read_text().split("\n")[:-1]
    return any(json.loads(line)["kind"] == "step" for line in lines)


@contextmanager
def many(folder: Path, count: int) -> Iterator[Path]:
    """Create `count` photographs, hard links to the same few, in folders that are not classes."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        copies = []
        for number, source in enumerate(sorted(folder.iterdir())):  # a hard link cannot cross file systems
            copies.append(root / f".{number}")
            copies[-1].write_bytes(source.read_bytes())
        for i in range(count):
            below = root / f"{i // 100_000:04d}" / f"{i // 1000:05d}"
            if i % 1000 == 0:
                below.mkdir(parents=True)
            os.link(copies[i % len(copies)], below / f"{i:08d}.jpg")
        yield root


if __name__ == "__main__":
    main()
