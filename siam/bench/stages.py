"""What limits training on this machine: the rate of each stage that an image passes, and a verdict.

The stages are measured one by one on a sample of the user's images, with the settings that `siam pretrain`
would take; then, for a few seconds, all of them together.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from torch import Tensor

from siam.data.images import Images
from siam.data.loader import ViewLoader, require_several
from siam.data.photometry import DRAWS
from siam.data.random import counter_uniform
from siam.data.sources import open_images
from siam.data.subset import Subset
from siam.data.views import COLOR, Unreadable, ViewBatches, read_or_replace
from siam.network import Network
from siam.objectives import build_objective
from siam.settings import recipes
from siam.settings.pretraining import Settings
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.environment import environment
from siam.system.resources import available_cores
from siam.train.step import Step

Limit = Literal["decode", "workers", "transfer", "device"]

_SAMPLE = 512
"""Images that are looked at, spread over the set: enough to be typical, few enough for seconds."""

_SECONDS = 2.0
"""For each stage."""

_LONG_STEP = 3.0
"""Seconds; a batch whose step would take longer is halved until it does not."""


@dataclass(frozen=True)
class Rates:
    """Images a second of each stage, alone; None where an image does not pass it."""

    device: str
    cores: int
    workers: int
    """Processes that decode and crop; 0 for a set that lives on the device."""
    decode: float | None
    """Of one worker: read and decode."""
    worker: float | None
    """Of one worker: read, decode, and cut the crops."""
    transfer: float | None
    """From pinned memory to a GPU."""
    photometry: float | None
    """Colours of both views on the device; with the crops, for a set that lives there."""
    step: float
    """Forward, backward and optimizer."""

    @property
    def on_device(self) -> float:
        """Photometry and step, one after the other."""
        return self.step if self.photometry is None else 1 / (1 / self.photometry + 1 / self.step)


@dataclass(frozen=True)
class Verdict:
    """What sets the pace, the pairs a second that follow from the stages, and what to change."""

    limit: Limit
    pairs_per_second: float
    advice: str


@dataclass(frozen=True)
class Bench:
    """What `siam bench` prints; `end_to_end`: pairs a second of all stages together."""

    data: str
    backbone: str
    size: int
    batch_size: int
    precision: str
    rates: Rates
    end_to_end: float
    verdict: Verdict
    machine: dict[str, Any]


def bench(
    data: str | None,
    method: str,
    change: Callable[[Settings], Settings],
    tell: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Measure, for what `siam pretrain DATA` would train with. Raises SiamError.

    change: applies the user's own settings. tell: told each stage before it is measured.
    """
    name = "demo" if data is None else data
    tell("images")
    everything = open_images(data).train
    require_several(everything)
    images = _sample(everything)
    image, _ = read_or_replace(images, 0, Unreadable())
    height, width = image.shape[1:]
    settings = change(recipes.starting_point(None, method, name, min(height, width), len(everything)))
    device = find_device(settings.device)
    tune_process(device)

    tell("step")
    settings, step, step_rate = _step_that_fits(replace(settings, epochs=10**6), device, len(images))
    loader = ViewLoader(images, settings, device, views=2)
    resident = loader.settle()
    tell("workers")
    decode, worker, crops = (None, None, None) if resident else _worker_rates(images, settings)
    tell("transfer and colors")
    rates = Rates(
        device=device.type,
        cores=available_cores(),
        workers=0 if resident else loader.workers,
        decode=decode,
        worker=worker,
        transfer=None if crops is None or device.type != "cuda" else _transfer_rate(crops, device),
        photometry=_crops_and_colours(loader, device) if crops is None else _colors(loader, crops, device),
        step=step_rate,
    )
    tell("all together")
    return Bench(
        data=images.name,
        backbone=settings.backbone,
        size=settings.views.size,
        batch_size=settings.batch_size,
        precision="bf16" if uses_bf16(settings.precision, device) else "float32",
        rates=rates,
        end_to_end=_end_to_end(loader, step, device),
        verdict=find_bottleneck(rates, height * width, settings.views.size),
        machine=environment(),
    )


def find_bottleneck(rates: Rates, pixels: int, size: int) -> Verdict:
    """What limits, from the rates of the stages alone.

    Beside a GPU the stages run at the same time and the slowest sets the pace. On a CPU they share the
    cores, so their times add up. pixels: of a typical image. size: the side of a view.
    """
    if rates.worker is None:
        return Verdict("device", rates.on_device, _faster_device(rates))
    if rates.workers == 0:
        pace = 1 / (1 / rates.worker + 1 / rates.on_device)
        return Verdict("workers", pace, "nothing is made ahead of the step: --loader.workers 1 or more")
    feeding = rates.worker * min(rates.workers, rates.cores)
    stages: dict[Limit, float]
    if rates.device == "cpu":
        most = rates.worker * rates.cores  # if every core did nothing else
        shared: Limit = "decode" if most < rates.on_device else "device"
        stages = {shared: 1 / (1 / most + 1 / rates.on_device), "workers": feeding}
    else:
        stages = {"device": rates.on_device, "transfer": rates.transfer or math.inf}
        stages["decode" if rates.workers >= rates.cores else "workers"] = feeding
    limit = min(stages, key=lambda name: stages[name])
    pace = stages.pop(limit)
    match limit:
        case "workers":
            enough = min(rates.cores, math.ceil(min(stages.values()) / rates.worker))
            advice = f"--loader.workers {enough} (there are {rates.cores} cores)"
        case "decode":
            advice = _faster_decoding(rates, pixels, size)
        case "transfer":
            advice = (
                "the link to the device is slow: a smaller --views.size; or --loader.cache device, "
                "where the images are of one size and fit in its memory"
            )
        case "device":
            advice = _faster_device(rates)
    return Verdict(limit, pace, advice)


def in_words(result: Bench) -> Group:
    """For people: each stage, alone, and what follows."""
    rates = result.rates
    rows = {
        "read and decode, one worker": rates.decode,
        "the same and two crops, one worker": rates.worker,
        f"the same, workers: {rates.workers}": rates.worker and rates.worker * rates.workers,
        "transfer to the device": rates.transfer,
        "colors on the device" if rates.worker else "crops and colors on the device": rates.photometry,
        f"training step, batch {result.batch_size}, {result.precision}": rates.step,
        "all together, expected": result.verdict.pairs_per_second,
        "all together, measured": result.end_to_end,
    }
    shown = Table("", "images/s", box=None, padding=(0, 2))
    shown.columns[1].justify = "right"
    for name, rate in rows.items():
        if rate is not None:
            shown.add_row(name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}")
    return Group(
        f"{result.data}, {result.backbone}, {result.size} px; {result.machine['machine']}",
        shown,
        f"limit: {result.verdict.limit}; to change it: {result.verdict.advice}",
    )


def _faster_decoding(rates: Rates, pixels: int, size: int) -> str:
    """What helps where every core decodes already."""
    assert rates.decode is not None
    assert rates.worker is not None
    decoding = rates.worker / rates.decode  # its share of a worker's time
    side = 2 * size
    if decoding > 0.5 and pixels > 2 * side**2:
        return (
            f"images of {pixels / 1e6:.1f} megapixels are decoded to make views of {size} pixels: "
            f"a copy of the set with shorter sides of {side} would be read faster"
        )
    if decoding > 0.7:
        return "JPEG, if the images are PNG or WebP, is decoded faster; else more cores"
    return "more cores, or a smaller --views.size"


def _faster_device(rates: Rates) -> str:
    if rates.photometry is not None and rates.photometry < rates.step:
        return "colors take longer than the network: --views.blur-p 0 saves most of them"
    if rates.device == "cpu":
        return "a GPU; else a smaller backbone, --width 0.5 or a smaller --views.size"
    return "nothing: the device is busy, as it should be (--compile true may gain some on long runs)"


def _sample(images: Images) -> Images:
    if len(images) <= _SAMPLE:
        return images
    return Subset(images, np.linspace(0, len(images) - 1, _SAMPLE).astype(np.int64))


def _rate(run: Callable[[], int], device: torch.device, seconds: float = _SECONDS) -> float:
    """Units a second, after one uncounted call, until the time is up."""
    run()
    _wait(device)
    start, units = time.perf_counter(), 0
    while units == 0 or time.perf_counter() - start < seconds:
        units += run()
        _wait(device)
    return units / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _step_that_fits(settings: Settings, device: torch.device, images: int) -> tuple[Settings, Step, float]:
    """Settings with a batch that the sample has and whose step is not too long, the step, and its rate."""
    step = _step(settings, device)
    batch = min(settings.batch_size, images)
    noise = torch.randn(2, batch, 3, settings.views.size, settings.views.size, device=device)

    def train(count: int) -> int:
        views = [x[:count].contiguous(memory_format=torch.channels_last) for x in noise]
        step(views, torch.arange(count), epoch=1)
        return count

    few = min(max(8, 2 * settings.grad_accum), batch)
    seconds_per_pair = 1 / _rate(lambda: train(few), device, seconds=0)
    while batch > few and batch * seconds_per_pair > _LONG_STEP:
        batch //= 2
    return replace(settings, batch_size=batch), step, _rate(lambda: train(batch), device)


def _step(settings: Settings, device: torch.device) -> Step:
    """As in `train`."""
    network = Network(settings.method, settings.backbone, settings.views.size, settings.width, settings.stem)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = build_objective(settings.method, settings.batch_size).to(device)
    return Step(network, objective, settings, device)


def _worker_rates(images: Images, settings: Settings) -> tuple[float, float, Tensor]:
    """Decoding, the whole of a worker's part, and a batch that it made; on one thread, as in a worker."""
    batches = ViewBatches(images, settings.views, count=2, seed=settings.seed)
    order = itertools.cycle(range(len(images)))
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        decode = _rate(lambda: len(_read(images, order)), cpu)
        worker = _rate(lambda: len(batches[0, _few(order)][0]), cpu)
        chosen = np.arange(settings.batch_size) % len(images)
        return decode, worker, batches[0, chosen][0]
    finally:
        torch.set_num_threads(threads)


def _few(order: Iterator[int]) -> NDArray[np.int64]:
    return np.array(list(itertools.islice(order, 16)), dtype=np.int64)


def _read(images: Images, order: Iterator[int]) -> list[int]:
    return [read_or_replace(images, i, Unreadable())[1] for i in itertools.islice(order, 16)]


def _transfer_rate(crops: Tensor, device: torch.device) -> float:
    pinned = crops.pin_memory()
    return _rate(lambda: len(pinned.to(device, non_blocking=True)), device, seconds=0.5)


def _colors(loader: ViewLoader, crops: Tensor, device: torch.device) -> float | None:
    """Of crops that are on the device already."""
    if crops.is_floating_point():  # the reference pipeline does all of it in the worker
        return None
    crops = crops.to(device)
    u = counter_uniform(0, 0, np.arange(2 * len(crops)), COLOR, DRAWS)

    def run() -> int:
        loader.photometry(crops.flatten(0, 1), u)
        return len(crops)

    return _rate(run, device)


def _crops_and_colours(loader: ViewLoader, device: torch.device) -> float:
    """Of a set that is on the device."""
    batches = loader.batches()
    return _rate(lambda: len(next(batches).indices), device)


def _end_to_end(loader: ViewLoader, step: Step, device: torch.device) -> float:
    """From files to step. Workers start before the clock does."""
    batches = loader.batches()

    def run() -> int:
        batch = next(batches)
        step(batch.views, torch.arange(len(batch.indices)), epoch=1)
        return len(batch.indices)

    return _rate(run, device, seconds=2 * _SECONDS)
