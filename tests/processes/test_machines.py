"""Two machines, simulated by two network namespaces with a link between them, each with its torchrun."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial

import pytest

from siam.runs.checkpoint import load_last
from tests.conftest import TINY
from tests.processes.torchrun import Torchrun

ADDRESSES = {"siam-a": "10.77.0.1", "siam-b": "10.77.0.2"}
PORT = 29517
CLONE_NEWNET = 0x40000000


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


@contextlib.contextmanager
def both_machines(restarts, *args):
    """Run torchrun on each; kill the remaining processes at the end.

    If the test fails, pytest shows what they printed.
    """
    with contextlib.ExitStack() as stack:
        both = []
        for name in ADDRESSES:
            both.append(torchrun(name, restarts, *args))
            stack.callback(both[-1].kill)
        try:
            yield both
        except BaseException:
            for name, process in zip(ADDRESSES, both, strict=True):
                print(name, process.stdout, process.stderr, sep="\n")
            raise


def torchrun(name, restarts, *args):
    """Start torchrun as on each node of a cluster."""
    host = int(name == "siam-a")  # it keeps the store; it does not know itself by its address here
    options = ["--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", restarts]
    options += ["--rdzv-backend", "c10d", "--rdzv-conf", f"is_host={host}", "--rdzv-id", "test"]
    options += ["--rdzv-endpoint", f"{ADDRESSES['siam-a']}:{PORT}", "--local-addr", ADDRESSES[name]]
    return Torchrun(*options, "-m", "siam", "pretrain", *args, before=partial(move_to, name))


def move_to(name):
    """Move this process to a namespace, as `ip netns exec` does, whose interface gloo is to use."""
    with open(f"/var/run/netns/{name}") as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")
    os.environ["GLOO_SOCKET_IFNAME"] = "siam0"


def steps(run):
    log = run / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]


def wait_until(holds, processes, seconds=300):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        assert not any(process.ended(0.02) for process in processes)
        time.sleep(0.02)


@pytest.mark.slow
def test_two_machines_survive_a_cut_link_and_a_killed_process(machines, photos, tmp_path):
    """The link is down for two seconds, and later one process is killed: the run completes every step."""
    run = tmp_path / "run"
    flags = [photos, *TINY, "--epochs", 30, "--checkpoint.every", 5, "--device", "cpu", "--out", run]
    flags += ["--resume", "auto"]
    with both_machines(3, *flags) as both:
        wait_until(lambda: len(steps(run)) >= 8, both)
        ip("-n", "siam-b", "link", "set", "siam0", "down")
        time.sleep(0.3)
        before = len(steps(run))
        time.sleep(1.7)
        assert len(steps(run)) == before  # neither continues alone
        ip("-n", "siam-b", "link", "set", "siam0", "up")
        wait_until(lambda: len(steps(run)) >= before + 8, both)
        os.kill(both[1].ranks()[0], signal.SIGKILL)
        assert all(process.ended(240) for process in both)
        assert [process.wait() for process in both] == [0, 0]
    assert steps(run) == list(range(1, 91))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "end"
    assert last["steps"] == 90
    assert last["verdict"] == "healthy"
    assert "(resumed)" in both[0].stderr + both[1].stderr


@pytest.mark.slow
def test_a_link_that_stays_cut_ends_the_run_with_the_checkpoint_intact(machines, photos, tmp_path):
    run = tmp_path / "run"
    flags = [*TINY, "--epochs", 2000, "--checkpoint.every", 5, "--timeout", "15s", "--device", "cpu"]
    with both_machines(0, photos, *flags, "--out", run) as both:
        wait_until(lambda: len(steps(run)) >= 8, both)
        ip("-n", "siam-b", "link", "set", "siam0", "down")
        # The other torchrun waits in its store for as long as TCP does: it is not waited for here.
        wait_until(lambda: not any(process.ranks() for process in both), [])
        assert both[0].ended(120)
        assert both[0].wait() != 0
    printed = " ".join(process.said() for process in both)
    assert "siam: process 0 of 2 lost contact with the other processes" in printed
    assert "siam: process 1 of 2 lost contact with the other processes" in printed
    assert "continue from the last checkpoint with --resume auto" in printed
    saved, complaint = load_last(run)
    assert not complaint
    assert saved["progress"]["step"] >= 5
