"""Measure how fast this machine trains on the user's images, for plans."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from siam.data.images import Images
from siam.data.loader import ViewLoader
from siam.data.subset import spaced
from siam.network import Network
from siam.objectives import build_objective
from siam.plan.machine import Speed
from siam.plan.rules import METHOD, Row, rows_for, settings_for
from siam.settings.pretraining import Precision, Settings
from siam.system.device import find_device, tune_process, uses_bf16
from siam.train.step import Step

SAMPLE = 512
"""Number of images to measure on."""
_SECONDS = 2.0  # for each measurement
_MIN_STEPS = 3  # after the first


class ThisMachine:
    """Measures this machine on a sample of the user's images, a few seconds for each measurement."""

    def __init__(self, images: Images, device: str = "auto") -> None:
        self.images, self.device_name = images, device
        self.device = find_device(device).type

    def estimate(self, row: Row) -> float:
        """Estimate a row's speed, in pairs per second, from that of the smallest network."""
        return self._gflops / row.gflops_per_pair

    @cached_property
    def _gflops(self) -> float:
        """Speed of training the smallest network, in 10^9 floating-point operations per second."""
        row = rows_for(min(self.images.size_hint))[0]
        settings = settings_for(row, self.images.name, len(self.images), METHOD)
        return _steps_per_second(settings, self.device_name) * settings.batch_size * row.gflops_per_pair

    def measure(self, settings: Settings) -> Speed:
        """Measure training with these settings, reading included, and choose the faster precision."""
        precision = settings.precision
        device = find_device(settings.device)
        if precision == "auto" and device.type == "cpu" and uses_bf16("auto", device):
            # Not every processor that knows bf16 is faster with it.
            choices: tuple[Precision, ...] = ("float32", "bf16")
            rates = [_steps_per_second(replace(settings, precision=p), settings.device) for p in choices]
            precision = choices[int(np.argmax(rates))]
        rate, reading = _measure_training(self.images, replace(settings, precision=precision))
        return Speed(rate, reading, precision)


def _steps_per_second(settings: Settings, device_name: str) -> float:
    """Measure optimizer steps alone, on noise."""
    device = find_device(device_name)
    tune_process(device)
    step, (batch, size) = build_step(settings, device), (settings.batch_size, settings.views.size)
    noise = torch.randn(2, batch, 3, size, size, device=device)
    views = [x.contiguous(memory_format=torch.channels_last) for x in noise]
    return per_second(lambda: step(views, torch.arange(batch), epoch=1), device)


def cpu_seconds_per_step(images: Images, settings: Settings) -> float:
    """Measure a training step on one thread in CPU time, which other work on the machine hardly changes."""
    device, threads = find_device("cpu"), torch.get_num_threads()
    tune_process(device)
    torch.set_num_threads(1)  # others would wait for each other by spinning, which counts as CPU time
    try:
        train, _ = _training(images, settings, device)
        return 1 / per_second(train, device, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)


def _measure_training(images: Images, settings: Settings) -> tuple[float, float]:
    """Return the pairs per second of training, and the seconds until all images are read into the cache."""
    device = find_device(settings.device)
    tune_process(device)
    train, reading = _training(images, settings, device)
    return settings.batch_size * per_second(train, device), reading


def _training(images: Images, settings: Settings, device: torch.device) -> tuple[Callable[[], None], float]:
    """Return a function that trains on the next batch of a sample, and the seconds to read all images."""
    sample = spaced(images, max(SAMPLE, settings.batch_size))
    step, start = build_step(settings, device), time.perf_counter()
    loader = ViewLoader(sample, replace(settings, epochs=10**6, time_limit=""), device)
    reading = (time.perf_counter() - start) * len(images) / len(sample) if loader.cached else 0.0
    batches = loader.batches()

    def train() -> None:
        batch = next(batches)
        step(batch.views, torch.arange(len(batch.indices)), epoch=1)

    return train, reading


def build_step(settings: Settings, device: torch.device) -> Step:
    """Build the training step as pretraining does, without changing torch's random state."""
    with torch.random.fork_rng(devices=[]):
        method = settings.method
        network = Network(method, settings.backbone, settings.views.size, settings.width, settings.stem)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Step(network, build_objective(method, settings.batch_size).to(device), settings, device)


def per_second(
    call: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return how often `call` completes per second, after one call to warm up."""
    call()
    done, start = 0, clock()
    while done < _MIN_STEPS or clock() - start < _SECONDS:
        call()
        synchronize(device)
        done += 1
    return done / (clock() - start)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
