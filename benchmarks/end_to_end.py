"""Throughput from photographs on disk to the optimizer's step: ours, and the loops in common use.

    python benchmarks/end_to_end.py [FOLDER] [--images 2000] [--backbone resnet18] [--size 224]
        [--batch-size 32] [--method simclr] [--workers N] [--warm-up 1] [--steps 4] [--rounds 3]
        [--lightly-train PYTHON] [--out FILE]

Candidates: `siam`'s loader and step; the loop of the released code (Pillow views in a DataLoader, float32
NCHW, plain SGD, the loss read at each step); the same loop with lightly's transform; and the limit, our step
on views that are already on the device. FOLDER holds photographs, photos.tar of SIAM_DATA if left out; they
are repeated up to --images. --lightly-train names a Python interpreter with lightly-train, whose `pretrain`
then runs on the same folder in its own process; its rate excludes the first step.
"""

import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from measure import (
    Candidate,
    alternating,
    arguments,
    in_own_process,
    in_own_processes,
    number,
    photographs,
    report,
    save,
)
from torch import Tensor
from training import (
    TrainOn,
    TwoCrops,
    our_step,
    plain_device,
    published_batches,
    published_step,
    random_views,
    settings_for,
    wait,
)

from siam.data.loader import ViewLoader, default_workers
from siam.data.sources import open_images
from siam.data.views import reference_transform
from siam.settings.pretraining import LoaderSettings, Settings
from siam.system.device import find_device, tune_process

LIMIT = "the limit: views on the device"
OURS = "ours"
PUBLISHED = "published loop (Pillow)"
LIGHTLY = "the same on lightly's transform"


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--method", default="simsiam")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="steps per turn")
    parser.add_argument("--warm-up", type=int, default=1, help="warm-up steps before them, not timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="data workers of siam; its default if left out")
    parser.add_argument("--their-workers", type=int, help="data workers of the others; as siam if left out")
    parser.add_argument("--compile", action="store_true", help="compile our step")
    parser.add_argument("--lightly-train", metavar="PYTHON", help="an interpreter with lightly-train")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = find_device(args.device)
    tune_process(device)
    workers = default_workers(device) if args.workers is None else args.workers
    theirs = workers if args.their_workers is None else args.their_workers
    settings = replace(
        settings_for(args.backbone, args.size, args.batch_size, args.method),
        loader=LoaderSettings(workers=workers, cache="none"),
        compile=args.compile,
    )
    with photographs(args.folder, args.images) as folder:
        names = [PUBLISHED, OURS, LIMIT, LIGHTLY]
        tasks = {name: (name, folder, settings, str(device), theirs) for name in names}
        groups = [(turn, (*task, args.warm_up, args.steps)) for task in tasks.values()]
        with in_own_processes(groups) as turns:
            rates = alternating(turns, args.rounds)
        memory = {}
        if device.type == "cuda":
            memory = {name: in_own_process(peak_mb, *tasks[name]) for name in rates}
        if args.lightly_train:
            rates["lightly-train pretrain"] = lightly_train(args.lightly_train, folder, settings, theirs)
    title = f"files to step, {args.method}, {args.backbone}, {args.size} px, batch {args.batch_size}"
    share = {name: 100 * rate / rates[LIMIT] for name, rate in rates.items()}
    more = {"% of the limit": share, **({"peak MB": memory} if memory else {})}
    part = report(title, "pairs/s", rates, PUBLISHED, more)
    if args.lightly_train:
        print(f"ours / lightly-train: {number(rates[OURS] / rates['lightly-train pretrain'])}")
    facts = {"workers": workers, "workers_of_others": theirs, "threads": torch.get_num_threads()}
    save(args.out, [part], images=args.images, steps=args.steps, compiled=args.compile, **facts)


Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Starts an endless iterator over batches of views on the device."""


def build(
    name: str, folder: Path, settings: Settings, device_name: str, theirs: int
) -> tuple[TrainOn, Batches, torch.device]:
    """Build a candidate: its step, batches and device. Raises ImportError if a peer is not installed."""
    ours_alone = name in (OURS, LIMIT)
    device = find_device(device_name) if ours_alone else plain_device(device_name)
    if ours_alone:
        tune_process(device)

    def ours() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in ViewLoader(images, settings, device).batches():
            yield batch.views[0], batch.views[1]

    def limit() -> Iterator[tuple[Tensor, Tensor]]:
        views = random_views(settings, device, torch.channels_last)
        while True:
            yield views

    def step_and_read(x1: Tensor, x2: Tensor) -> Tensor:
        loss = plain(x1, x2)
        loss.item()  # the released code's meter
        return loss

    if name == LIMIT:
        return our_step(settings, device), limit, device
    if name == OURS:
        images = open_images(folder).train
        return our_step(settings, device), ours, device
    if name == PUBLISHED:
        dataset = TwoCrops(folder, reference_transform(settings.views), both=False)
    else:
        from lightly.transforms import SimSiamTransform

        dataset = TwoCrops(folder, SimSiamTransform(input_size=settings.views.size), both=True)
    plain = published_step(settings, device)
    return step_and_read, lambda: published_batches(dataset, settings.batch_size, theirs, device), device


def turn(
    name: str, folder: Path, settings: Settings, device_name: str, theirs: int, warm_up: int, steps: int
) -> dict[str, Candidate]:
    """Build a candidate that runs some steps of a newly started loop.

    Batches that workers prefetched before the clock started are free. If workers are the bottleneck, warm up
    for as many steps as they may prefetch, and time several times as many.
    """
    warnings.simplefilter("ignore")
    step, batches, device = build(name, folder, settings, device_name, theirs)

    def run() -> tuple[int, float]:
        views = batches()
        for _ in range(warm_up):
            step(*next(views))
        wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            step(*next(views))
        wait(device)
        return steps * settings.batch_size, time.perf_counter() - start

    return {name: run}


def peak_mb(name: str, folder: Path, settings: Settings, device_name: str, theirs: int) -> float:
    """Return the peak of GPU memory in a step."""
    step, _, device = build(name, folder, settings, device_name, theirs)
    step(*random_views(settings, device, torch.channels_last))
    return torch.cuda.max_memory_allocated() / 2**20


LIGHTLY_TRAIN = """
import json, sys, time
import lightly_train
from pytorch_lightning import Callback, Trainer

class Times(Callback):
    at = []
    def on_train_batch_end(self, *_):
        self.at.append(time.perf_counter())

plain = Trainer.__init__
def with_times(self, *args, **options):
    options["callbacks"] = [*(options.get("callbacks") or []), Times()]
    plain(self, *args, **options)
Trainer.__init__ = with_times

if __name__ == "__main__":
    folder, out, model, method, size, batch, workers, steps = sys.argv[1:]
    lightly_train.pretrain(
        out=out, data=folder, model=model, method=method, epochs=1, batch_size=int(batch),
        num_workers=int(workers), transform_args={"image_size": (int(size), int(size))},
        trainer_args={"max_steps": int(steps)}, loggers={"tensorboard": None},
    )
    print(json.dumps((len(Times.at) - 1) * int(batch) / (Times.at[-1] - Times.at[0])))
"""


def lightly_train(python: str, folder: Path, settings: Settings, workers: int) -> float:
    """Return the pairs per second of `lightly-train pretrain`, with its own defaults otherwise."""
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "steps.py"
        script.write_text(LIGHTLY_TRAIN)
        named = [f"torchvision/{settings.backbone}", settings.method.name]
        sizes = [settings.views.size, settings.batch_size, workers, 6]
        done = subprocess.run(
            [python, str(script), str(folder), f"{temporary}/out", *named, *map(str, sizes)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )
        if done.returncode:
            raise SystemExit(f"lightly-train failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
