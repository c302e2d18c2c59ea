"""Measure the throughput of each stage of pretraining, from decoding to optimizer step.

Each stage is measured separately on a sample of the user's images, with the settings
that `siam pretrain` would use; then all stages run together for a few seconds.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from siam import recipes
from siam.bench.verdict import Rates, Verdict, find_bottleneck
from siam.data.augment import DRAWS, Augment
from siam.data.images import Images
from siam.data.loader import ViewLoader, require_several
from siam.data.random import COLOR, counter_uniform
from siam.data.sources import open_images
from siam.data.subset import spaced
from siam.data.unreadable import Unreadable, read_or_replace
from siam.data.views import view_batches
from siam.runs.bars import print_sets
from siam.settings.overrides import Overrides
from siam.settings.pretraining import Settings
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.environment import environment
from siam.system.resources import available_cores
from siam.train.speed import SAMPLE, build_step, synchronize
from siam.train.step import Step

_CHUNK = 16  # images per call
_SECONDS = 2.0  # per stage
_MAX_STEP_SECONDS = 3.0  # the batch size is halved until a step is at most this long


@dataclass(frozen=True)
class Bench:
    """The result of `siam bench`.

    end_to_end: pairs per second with all stages running together.
    """

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
    overrides: Overrides,
    announce: Callable[[str], None] = lambda stage: None,
    console: Console | None = None,
) -> Bench:
    """Measure the throughput of each stage of `siam pretrain` and find the bottleneck.

    announce: called with the name of each stage before it is measured. Raises
    SiamError.
    """
    announce("images")
    data = overrides.only("data").over(Settings()).data
    sets = open_images(data)
    print_sets(console or Console(stderr=True), sets)
    all_images = sets.to_train_on()
    require_several(all_images)
    images = spaced(all_images, SAMPLE)
    height, width = images.size_hint
    method = overrides.get("method.name", Settings().method.name)
    base = recipes.starting_point(None, method, data, min(height, width), len(all_images))
    settings = overrides.over(base)
    device = find_device(settings.device)
    tune_process(device)

    announce("training step")
    settings, step, step_rate = _step_that_fits(replace(settings, epochs=10**6), device, len(images))
    loader = ViewLoader(images, settings, device, views=2)
    announce("workers")
    decode, worker, crops = (None, None, None) if loader.cached else _worker_rates(images, settings)
    announce("transfer and color augmentation")
    rates = Rates(
        device=device.type,
        cores=available_cores(),
        workers=0 if loader.cached else loader.workers,
        decode=decode,
        worker=worker,
        transfer=None if crops is None or device.type != "cuda" else _transfer_rate(crops, device),
        augment=_cached_rate(loader, device) if crops is None else _color_rate(settings, crops, device),
        step=step_rate,
    )
    announce("end to end")
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


def _rate(run: Callable[[], int], device: torch.device, seconds: float = _SECONDS) -> float:
    """Return the throughput of `run` in images per second.

    run: processes some images and returns their number; called once to warm up, then
    repeatedly for `seconds`.
    """
    run()
    synchronize(device)
    start, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - start < seconds:
        images += run()
        synchronize(device)
    return images / (time.perf_counter() - start)


def _step_that_fits(settings: Settings, device: torch.device, images: int) -> tuple[Settings, Step, float]:
    """Reduce the batch size until a step takes at most 3 seconds.

    Returns the new settings, the training step, and its throughput in pairs per second.
    """
    step = build_step(settings, device)
    batch = min(settings.batch_size, images)
    noise = torch.randn(2, batch, 3, settings.views.size, settings.views.size, device=device)

    def train(count: int) -> int:
        views = [x[:count].contiguous(memory_format=torch.channels_last) for x in noise]
        step(views, torch.arange(count), epoch=1)
        return count

    few = min(max(8, 2 * settings.grad_accum), batch)
    seconds_per_pair = 1 / _rate(lambda: train(few), device, seconds=0)
    while batch > few and batch * seconds_per_pair > _MAX_STEP_SECONDS:
        batch //= 2
    return replace(settings, batch_size=batch), step, _rate(lambda: train(batch), device)


def _worker_rates(images: Images, settings: Settings) -> tuple[float, float, Tensor]:
    """Measure the throughput of decoding alone and of a complete worker, each on one thread.

    Returns both rates, in images per second, and a batch of crops.
    """
    batches = view_batches(images, settings, count=2)
    order = itertools.cycle(range(len(images)))
    cpu = torch.device("cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        decode = _rate(lambda: _read_chunk(images, order), cpu)
        worker = _rate(lambda: len(batches[0, 0, _next_chunk(order)].views), cpu)
        chosen = np.arange(settings.batch_size) % len(images)
        return decode, worker, batches[0, 0, chosen].views
    finally:
        torch.set_num_threads(threads)


def _next_chunk(order: Iterator[int]) -> NDArray[np.int64]:
    return np.array(list(itertools.islice(order, _CHUNK)), dtype=np.int64)


def _read_chunk(images: Images, order: Iterator[int]) -> int:
    for i in _next_chunk(order):
        read_or_replace(images, int(i), Unreadable(), images.read)
    return _CHUNK


def _transfer_rate(crops: Tensor, device: torch.device) -> float:
    pinned = crops.pin_memory()
    return _rate(lambda: len(pinned.to(device, non_blocking=True)), device, seconds=0.5)


def _color_rate(settings: Settings, crops: Tensor, device: torch.device) -> float | None:
    """Measure color augmentation on the device, in images per second.

    Returns None if the workers augment the colors.
    """
    if settings.views.pipeline == "reference":
        return None
    augment = Augment(settings.views, device)
    crops = crops.to(device)
    u = counter_uniform(0, 0, np.arange(2 * len(crops)), COLOR, DRAWS)

    def run() -> int:
        augment(crops.flatten(0, 1), u)
        return len(crops)

    return _rate(run, device)


def _cached_rate(loader: ViewLoader, device: torch.device) -> float:
    """Measure cropping and color augmentation of cached images, in images/s."""
    batches = loader.batches()
    return _rate(lambda: len(next(batches).indices), device)


def _end_to_end(loader: ViewLoader, step: Step, device: torch.device) -> float:
    """Measure all stages together, in pairs per second, excluding worker startup."""
    batches = loader.batches()

    def run() -> int:
        batch = next(batches)
        step(batch.views, torch.arange(len(batch.indices)), epoch=1)
        return len(batch.indices)

    return _rate(run, device, seconds=2 * _SECONDS)
