"""Plan a run: from the images, the machine and the time to settings."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from siam.errors import SettingsError
from siam.plan.machine import Machine, Speed
from siam.plan.rules import MAX_EPOCHS, METHOD, Row, choose, rows_for, settings_for
from siam.recipes import require_method
from siam.settings.checks import parse_duration
from siam.settings.overrides import Overrides
from siam.settings.pretraining import Settings
from siam.settings.schedule import Schedule

DEFAULT_TIME = {"cpu": "30m", "cuda": "2h", "mps": "2h"}
"""Device type -> training time, unless the user gives one."""

STARTUP = 15.0
"""Seconds reserved for reading the first images, the first and the last measurement, and the report."""
MEASURED = 0.05
"""Fraction of the time to spend on measurements between epochs, at most."""
MEASUREMENT = 2.0
"""Seconds that one measurement takes, roughly."""
MIN_STEPS = 20
MIN_SECONDS = 60.0
"""Shorter runs are refused before anything is measured."""


@dataclass(frozen=True)
class Dataset:
    """What a plan needs to know about the images."""

    name: str
    images: int
    side: int
    """Shorter side of a typical image, in pixels."""


@dataclass(frozen=True)
class Plan:
    """A planned run."""

    settings: Settings
    images: int
    pairs_per_second: float
    seconds: float
    """Promised time, from start to end."""
    twice: str
    """What twice the time would change."""

    @property
    def steps(self) -> int:
        """Planned number of optimizer steps."""
        return Schedule(self.images // self.settings.batch_size, self.settings.epochs).total_steps

    def lines(self) -> Iterator[str]:
        """Yield the plan in a few lines."""
        s = self.settings
        done = datetime.now() + timedelta(seconds=self.seconds)
        day = "" if done.date() == datetime.now().date() else f"{done:%A} "
        lr = s.optimizer.lr * s.batch_size / 256
        yield (
            f"plan: {s.method.name}, {_network(s)}, views of {s.views.size} px, batches of "
            f"{s.batch_size}, {s.optimizer.name} at lr {lr:.3g}"
        )
        yield (
            f"      {self.pairs_per_second:,.0f} pairs/s: {self.steps:,} steps, {s.epochs:.3g} passes over "
            f"{self.images:,} images; done in {in_words(self.seconds)}, at {day}{done:%H:%M}"
        )
        yield f"      {self.twice}"

    def flat(self) -> dict[str, Any]:
        """Return the plan as plain values, for --json."""
        s = self.settings
        return {
            "method": s.method.name, "backbone": s.backbone, "width": s.width, "size": s.views.size,
            "batch_size": s.batch_size, "lr": s.optimizer.lr * s.batch_size / 256, "epochs": s.epochs,
            "steps": self.steps, "pairs_per_second": self.pairs_per_second, "seconds": self.seconds,
            "twice": self.twice,
        }  # fmt: skip


def planned_seconds(duration: str | None, device: str) -> float:
    """Return the time to plan for, in seconds. duration: as given by the user. Raises SettingsError."""
    seconds = parse_duration(duration or DEFAULT_TIME[device], "--for")
    if seconds < MIN_SECONDS:
        raise SettingsError(
            f"--for {duration} is too short: measuring this machine and starting take most of a minute, "
            "so give at least 1m, or the number of --epochs"
        )
    return seconds


def make_plan(
    dataset: Dataset, machine: Machine, seconds: float, overrides: Overrides, base: Settings | None = None
) -> Plan:
    """Plan a run of `seconds`, as long as the images allow.

    overrides: the user's settings. base: settings of a recipe, of which only the length is planned.
    Raises SettingsError if the time is too short for a run.
    """
    start, twice = time.monotonic(), "the same network, twice as many steps"
    if base is None:
        row = _choose(dataset, machine, seconds)
        method = require_method(overrides.get("method.name", METHOD))
        base = settings_for(row, dataset.name, dataset.images, method)
        larger = _choose(dataset, machine, 2 * seconds)
        twice = f"{_network(larger)} on views of {larger.size} px" if larger != row else twice
    settings = overrides.over(base)
    speed = machine.measure(settings)
    if speed is None:
        speed = Speed(machine.estimate(_choose(dataset, machine, seconds)), 0.0, settings.precision)
    settings = replace(settings, precision=speed.precision)
    return _with_length(dataset, settings, speed, seconds, f"twice the time: {twice}", start)


def _with_length(
    dataset: Dataset, settings: Settings, speed: Speed, seconds: float, twice: str, start: float
) -> Plan:
    """Give the settings as many epochs as fit into `seconds`, counted from `start`."""
    rate, steps_per_epoch = speed.pairs_per_second, dataset.images // settings.batch_size
    reserved = time.monotonic() - start + speed.reading + min(STARTUP, seconds / 4)
    steps = int((1 - MEASURED) * (seconds - reserved) * rate / settings.batch_size)
    if steps < MIN_STEPS:
        needed = MIN_STEPS * settings.batch_size / rate / (1 - MEASURED) + reserved
        raise SettingsError(
            f"{in_words(seconds)} is too short: reading the images and {MIN_STEPS} steps take "
            f"{in_words(needed)} here, so set --for to at least {math.ceil(needed / 60)}m"
        )
    epochs, duration = round(steps / steps_per_epoch, 4), f"{seconds:g}s"
    epoch_seconds = steps_per_epoch * settings.batch_size / rate
    if epochs > MAX_EPOCHS:
        epochs, duration = float(MAX_EPOCHS), ""
        seconds = epochs * epoch_seconds / (1 - MEASURED) + reserved
        twice = f"more time changes nothing: {MAX_EPOCHS:,} passes are as many as a set of this size can use"
    every = max(1, round(MEASUREMENT / MEASURED / epoch_seconds))
    monitor = replace(settings.monitor, every=every)
    settings = replace(settings, epochs=epochs, time_limit=duration, monitor=monitor)
    return Plan(settings, dataset.images, rate, seconds, twice)


def _choose(dataset: Dataset, machine: Machine, seconds: float) -> Row:
    limit = MAX_EPOCHS * dataset.images
    pairs = {row: min(limit, seconds * machine.estimate(row)) for row in rows_for(dataset.side)}
    return choose(pairs)


def _network(row: Row | Settings) -> str:
    return row.backbone if row.width == 1 else f"{row.backbone} x {row.width:g}"


def in_words(seconds: float) -> str:
    """Return a duration in words, such as 45 s, 20 min, 2.5 h or 3 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
