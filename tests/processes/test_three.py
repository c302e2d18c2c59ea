"""Three processes of torchrun, of which one is lost: the others end, and the run goes on."""

import json
import os
import signal
import time

import pytest

from siam.runs.checkpoint import load_last
from tests.conftest import TINY
from tests.processes.torchrun import Torchrun

FLAGS = [*TINY, "--epochs", 16, "--batch-size", 9, "--device", "cpu", "--loader.cache", "none"]
FLAGS += ["--checkpoint.every", 2, "--monitor.knn-every", 0, "--timeout", "20s", "--resume", "auto"]


def start(restarts, *args):
    """Start torchrun with three processes."""
    options = ["--standalone", "--nproc-per-node", 3, "--max-restarts", restarts]
    return Torchrun(*options, "-m", "siam", "pretrain", *args)


def steps(run):
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("restarts", "fault"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (0, signal.SIGSTOP)]
)
def test_one_of_three_processes_is_lost(photos, tmp_path, restarts, fault):
    """With a restart torchrun brings the run to its end. Without, the others end within the timeout and keep
    the last checkpoint; three processes then finish every step.
    """
    run = tmp_path / "run"
    process = start(restarts, photos, *FLAGS, "--out", run)
    try:
        deadline = time.monotonic() + 300
        while len(steps(run)) < 6:
            assert not process.ended(0.02), process.stderr
            assert time.monotonic() < deadline, process.stderr
        os.kill(process.ranks()[1], fault)
        assert process.ended(240), process.stderr  # torchrun kills one that does not end for 30 seconds
    finally:
        process.kill()
    if restarts:
        assert process.wait() == 0, process.stderr
        assert "(resumed)" in process.stderr
    else:
        assert process.wait() == 1
        assert "siam: process" in process.stderr
        saved, complaint = load_last(run)
        assert not complaint
        assert saved["progress"]["step"] >= 4
        again = start(0, photos, *FLAGS, "--out", run)
        assert again.wait() == 0, again.stderr
    assert steps(run) == list(range(1, 33))
