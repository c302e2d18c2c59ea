"""The number of threads follows the measured rate, and a resumed run repeats its changes."""

import json

import pytest
import torch

from siam.runs import clock as clock_module
from siam.runs.clock import Clock
from siam.runs.decisions import Decisions
from siam.runs.logger import NullLogger
from siam.runs.threads import Threads
from tests.conftest import TINY, run_cli


class Log(NullLogger):
    def __init__(self):
        self.changes = []

    def log(self, kind, step, threads):
        self.changes.append((kind, step, threads))


@pytest.fixture
def machine(monkeypatch):
    """A machine with 4 threads and a clock that tests move."""

    class Machine:
        now, threads = 0.0, 4

        def monotonic(self):
            return self.now

    machine = Machine()
    monkeypatch.setattr(clock_module, "time", machine)
    monkeypatch.setattr(torch, "get_num_threads", lambda: machine.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: setattr(machine, "threads", n))
    return machine


def train(machine, steps, seconds, given=0, before=0, decisions=()):
    """Run steps that take seconds(step, threads). Return the threads of each step, and the log."""
    log, used = Log(), []
    with Threads(given, before, Clock(0.0, 0), log, Decisions(decisions, 0)) as threads:
        for step in range(steps):
            machine.now += seconds(step, machine.threads)
            used.append(machine.threads)
            threads.after_step(step + 1)
    assert machine.threads == 4, "restored"
    return used, log.changes


def test_small_steps_settle_on_one_thread(machine):
    used, changes = train(machine, 60, lambda step, n: {4: 0.9, 2: 0.6, 1: 0.5}[n])
    assert used[0] == 4
    assert set(used[20:]) == {1}
    assert [threads for _, _, threads in changes] == [2, 1]


def test_large_steps_keep_all_threads(machine):
    used, changes = train(machine, 60, lambda step, n: 2.0 / n)
    assert set(used[20:]) == {4}
    assert [threads for _, _, threads in changes] == [2, 1, 4]


def test_a_machine_that_becomes_busy_gets_fewer_threads_and_back(machine):
    """From step 100 to 200, steps with more than one thread take four times as long."""

    def seconds(step, n):
        return 2.0 / n * (4 if 100 <= step < 200 and n > 1 else 1)

    used, _ = train(machine, 400, seconds)
    assert set(used[30:100]) == {4}
    assert used[150:200].count(1) > 40 or set(used[150:190]) == {1, 2, 4}
    assert used[399] == 4


def test_a_given_number_is_kept(machine):
    used, changes = train(machine, 30, lambda step, n: 1.0, given=3)
    assert set(used) == {3}
    assert changes == []


def test_a_resumed_run_repeats_the_changes(machine):
    made = [{"kind": "threads", "step": s, "threads": n} for s, n in ((5, 2), (9, 1))]
    used, changes = train(machine, 12, lambda step, n: 0.01, decisions=made)
    assert used == [4] * 5 + [2] * 4 + [1] * 3
    assert changes == [("threads", 5, 2), ("threads", 9, 1)]


def test_decisions_before_the_checkpoint_are_past():
    decisions = Decisions([{"kind": "threads", "step": 5, "threads": 2}, {"kind": "step", "step": 9}], step=5)
    assert not decisions.repeating("threads", 6)
    assert decisions.made("threads", 5) is None


def test_a_run_logs_its_changes(photos, tmp_path):
    """A given number is kept; it is not part of what the run learns, so it may change on resume."""
    run = tmp_path / "run"
    run_cli("pretrain", photos, *TINY, "--threads", 1, "--out", run, check=0)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not [r for r in records if r["kind"] == "threads"]
    run_cli("pretrain", photos, *TINY, "--threads", 2, "--out", run, "--resume", check=0)
