"""A run that promised to end on time does so, whatever its steps cost."""

import json
import time

import pytest

from siam.runs import clock as clock_module
from siam.runs.clock import Clock
from siam.runs.decisions import Decisions
from siam.runs.logger import NullLogger
from siam.runs.pace import Pace
from siam.settings.schedule import Schedule
from tests.conftest import TINY, run_cli


class Hours:
    """A clock that tests move."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def hours(monkeypatch):
    hours = Hours()
    monkeypatch.setattr(clock_module, "time", hours)
    return hours


def simulate(hours, promised, planned_steps, step_seconds, measure_every=0, measure_seconds=0.0):
    """Return the seconds and steps of a run whose step i takes step_seconds(i)."""
    clock, schedule = Clock(0.0, 0), Schedule(1, planned_steps)
    pace, step = Pace(promised, schedule, clock, Decisions([], 0), 0), 0
    while step < schedule.total_steps:
        hours.now += step_seconds(step)
        step += 1
        if measure_every and step % measure_every == 0:
            with clock.paused():
                hours.now += measure_seconds
        if step % 10 == 0 and step < schedule.total_steps:
            pace.keep(step, NullLogger())
    with clock.paused():
        hours.now += measure_seconds + 2
    assert schedule.progress(step) == pytest.approx(1)
    return clock.seconds(), step


@pytest.mark.parametrize("actual", [0.05, 0.1, 0.2, 0.4])
def test_a_run_ends_on_time_at_any_speed(hours, actual):
    """1,000 steps were planned in 100 s, at 0.1 s each."""
    seconds, steps = simulate(hours, 100, 1000, lambda step: actual)
    assert 95 < seconds < 103
    assert steps == pytest.approx(98 / actual, rel=0.05)


def test_a_machine_that_becomes_busy_ends_on_time(hours):
    """Steps take three times as long from the middle on."""
    seconds, _ = simulate(hours, 600, 6000, lambda step: 0.1 if step < 3000 else 0.3)
    assert 570 < seconds < 615


def test_measurements_are_part_of_the_time(hours):
    seconds, _ = simulate(hours, 300, 3000, lambda step: 0.1, measure_every=100, measure_seconds=5)
    assert 285 < seconds < 310


def test_a_run_on_a_busy_machine_says_so(hours):
    lines, log = [], NullLogger()
    log.print = lambda line, markup=False: lines.append(line)
    clock, schedule = Clock(0.0, 0), Schedule(1, 1000)
    pace = Pace(100, schedule, clock, Decisions([], 0), 0)
    hours.now = 20.0
    pace.keep(50, log)  # 0.4 s a step: 245 steps in all
    assert schedule.total_steps == 50 + 195
    assert lines == ["steps are slower than planned: 245 instead of 1,000, to end on time"]


def test_a_real_run_ends_on_time_and_records_it(photos, tmp_path):
    """24 images for 15 seconds; the plan of 100,000 epochs would take an hour."""
    run, start = tmp_path / "run", time.monotonic()
    flags = [
        *TINY,
        "--epochs",
        100_000,
        "--time-limit",
        "15s",
        "--monitor.every",
        200,
        "--monitor.log-every",
        10,
    ]
    run_cli("pretrain", photos, *flags, "--out", run, check=0)
    assert 8 < time.monotonic() - start < 60  # the upper bound only guards against a run that does not end
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    changes = [r for r in records if r["kind"] == "schedule"]
    end = records[-1]
    assert end["kind"] == "end"
    assert changes[-1]["total_steps"] == end["steps"]
    assert end["epochs"] == pytest.approx(end["steps"] / 3, abs=1e-3)
    assert records[-2]["step"] == end["steps"]
    last_lr = [r["lr"] for r in records if r["kind"] == "step"][-1]
    assert last_lr < 1e-4, "the cosine has reached its end"
