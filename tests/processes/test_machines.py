"""Two machines, simulated by two network namespaces with a link between them, each with its torchrun."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from siam.runs.checkpoint import load_last
from tests.conftest import TINY

ADDRESSES = {"siam-a": "10.77.0.1", "siam-b": "10.77.0.2"}
PORT = 29517


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines():
    """Namespaces siam-a and siam-b; their end of the link between them is `siam0`."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    try:
        try:
            for name in ADDRESSES:
                delete(name)
                ip("netns", "add", name)
            ends = [["name", "siam0", "netns", name] for name in ADDRESSES]
            ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        for name, address in ADDRESSES.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", "siam0")
            for device in ("lo", "siam0"):
                ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in ADDRESSES:
            delete(name)


def delete(name):
    """Delete the namespace, if it exists, and kill every process in it."""
    for pid in pids(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def pids(name):
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def worker(name):
    """Return the process that trains there; the other one is torchrun."""
    for pid in pids(name):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"pretrain" in words and b"torch.distributed.run" not in words:
                return pid
    return None


@contextlib.contextmanager
def both_machines(folder, restarts, *args):
    """Run torchrun on each, logging to a.log and b.log; kill the remaining processes at the end.

    If the test fails, pytest shows the logs.
    """
    with contextlib.ExitStack() as stack:
        both = []
        for name in ADDRESSES:
            log = stack.enter_context((folder / f"{name[-1]}.log").open("w"))
            both.append(stack.enter_context(torchrun(name, log, restarts, *args)))
            stack.callback(both[-1].kill)
        try:
            yield both
        except BaseException:
            for name in ("a.log", "b.log"):
                print(name, (folder / name).read_text(), sep="\n")
            raise


def torchrun(name, log, restarts, *args):
    """Start torchrun as on each node of a cluster."""
    host = int(name == "siam-a")  # it keeps the store; it does not know itself by its address here
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
    command += [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-conf",
        f"is_host={host}",
        "--rdzv-backend",
        "c10d",
    ]
    command += ["--rdzv-endpoint", f"{ADDRESSES['siam-a']}:{PORT}", "--rdzv-id", "test"]
    command += ["--local-addr", ADDRESSES[name], "--max-restarts", restarts, "-m", "siam", "pretrain", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "siam0"}
    return subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment)


def steps(run):
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]


def wait_until(holds, processes, seconds=300):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.mark.slow
def test_two_machines_survive_a_cut_link_and_a_killed_process(machines, photos, tmp_path):
    """The link is down for two seconds, and later one process is killed: the run completes every step."""
    run = tmp_path / "run"
    flags = [photos, *TINY, "--epochs", 30, "--checkpoint.every", 5, "--device", "cpu", "--out", run]
    flags += ["--resume", "auto"]
    with both_machines(tmp_path, 3, *flags) as both:
        wait_until(lambda: len(steps(run)) >= 8, both)
        ip("-n", "siam-b", "link", "set", "siam0", "down")
        time.sleep(0.3)
        before = len(steps(run))
        time.sleep(1.7)
        assert len(steps(run)) == before  # neither continues alone
        ip("-n", "siam-b", "link", "set", "siam0", "up")
        wait_until(lambda: len(steps(run)) >= before + 8, both)
        os.kill(worker("siam-b"), signal.SIGKILL)
        assert [process.wait(timeout=240) for process in both] == [0, 0]
    assert steps(run) == list(range(1, 91))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "end"
    assert last["steps"] == 90
    assert last["verdict"] == "healthy"
    assert "(resumed)" in (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()


@pytest.mark.slow
def test_a_link_that_stays_cut_ends_the_run_with_the_checkpoint_intact(machines, photos, tmp_path):
    run = tmp_path / "run"
    flags = [*TINY, "--epochs", 2000, "--checkpoint.every", 5, "--timeout", "15s", "--device", "cpu"]
    with both_machines(tmp_path, 0, photos, *flags, "--out", run) as both:
        wait_until(lambda: len(steps(run)) >= 8, both)
        ip("-n", "siam-b", "link", "set", "siam0", "down")
        # The other torchrun waits in its store for as long as TCP does: it is not waited for here.
        wait_until(lambda: not any(worker(name) for name in ADDRESSES), [])
        assert both[0].wait(timeout=120) != 0
    printed = " ".join(" ".join((tmp_path / name).read_text() for name in ("a.log", "b.log")).split())
    assert "siam: process 0 of 2 lost contact with the other processes" in printed
    assert "siam: process 1 of 2 lost contact with the other processes" in printed
    assert "continue from the last checkpoint with --resume auto" in printed
    saved, complaint = load_last(run)
    assert not complaint
    assert saved["progress"]["step"] >= 5
