"""Three processes of torchrun, of which one is lost: the others end, and the run goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from siam.runs.checkpoint import load_last
from tests.conftest import TINY
from tests.torture.faults import descendants

FLAGS = [*TINY, "--epochs", 16, "--batch-size", 9, "--device", "cpu", "--loader.cache", "none"]
FLAGS += ["--checkpoint.every", 2, "--monitor.knn-every", 0, "--timeout", "20s", "--resume", "auto"]


def start(log, restarts, *args):
    """Start torchrun with three processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 3]
    command += ["--max-restarts", restarts, "-m", "siam", "pretrain", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment)


def workers(pid):
    """Return the three processes that train."""
    of_torchrun = [child for child in descendants(pid) if b"pretrain" in words(child)]
    return [child for child in of_torchrun if b"multiprocessing" not in b" ".join(words(child))]


def words(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


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
    run, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as file:
        process = start(file, restarts, photos, *FLAGS, "--out", run)
    try:
        deadline = time.monotonic() + 300
        while len(steps(run)) < 6:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        os.kill(workers(process.pid)[1], fault)
        status = process.wait(timeout=240)  # torchrun kills a process that does not end for 30 seconds
    finally:
        for pid in descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
    if restarts:
        assert status == 0, log.read_text()
        assert "(resumed)" in log.read_text()
    else:
        assert status == 1
        assert "siam: process" in log.read_text()
        saved, complaint = load_last(run)
        assert not complaint
        assert saved["progress"]["step"] >= 4
        with log.open("w") as file:
            assert start(file, 0, photos, *FLAGS, "--out", run).wait(timeout=300) == 0, log.read_text()
    assert steps(run) == list(range(1, 33))
