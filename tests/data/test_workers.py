"""Worker processes make batches in order, and end with the process that they work for."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from siam.data.workers import batches_of
from tests.conftest import TINY


class Squares(Dataset):
    def __getitem__(self, key):
        return key**2, os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("methods", [["spawn"], ["fork", "spawn", "forkserver"]])
def test_batches_come_in_the_order_of_their_keys_from_workers_however_started(monkeypatch, methods):
    """Windows has spawn alone."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: methods)
    batches = list(batches_of(Squares(), [3, 1, 2, 5], workers=2))
    assert [square for square, _ in batches] == [9, 1, 4, 25]
    assert len({worker for _, worker in batches} - {os.getpid()}) == 2


def of_session(session):
    """Processes of a session that have not ended: id and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_nothing_outlives_a_run_that_is_killed(photos, tmp_path):
    """SIGKILL reaches the command alone, which cannot forward it: its workers and their server end too."""
    run = tmp_path / "run"
    flags = [*TINY, "--epochs", "100000", "--loader.cache", "none", "--loader.workers", "2"]
    here = str(Path(__file__).parents[2])  # workers take nothing from the current folder
    process = subprocess.Popen(
        [sys.executable, "-m", "siam", "pretrain", photos, *flags, "--out", run],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 200
        while len(of_session(process.pid)) < 5 or not (run / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, of_session(process.pid)
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    try:
        deadline = time.monotonic() + 20
        while left := of_session(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
