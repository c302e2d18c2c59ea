"""Stop signals are heard in every verb, whatever the main thread does, and clean up after it."""

import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from siam.runs.checkpoint import load_last
from siam.runs.saving import GaveUpWaiting, StopRequest
from siam.system.signals import Stopped, deferred, handling, raising_on_signals, stop_signals
from tests.command import Command
from tests.conftest import TINY

SOURCES = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def default_hangup():
    """Hear SIGHUP also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def signaled(number, steps):
    with raising_on_signals():
        try:
            signal.raise_signal(number)
            steps.append("went on")
        except Exception:
            steps.append("taken for an error")
        finally:
            steps.append("cleaned up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unwinds_the_block_and_handlers_are_restored(number):
    before, steps = signal.getsignal(number), []
    with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
        signaled(number, steps)
    assert steps == ["cleaned up"]
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) is before


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
        with handling(lambda *_: pytest.fail("handled")):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_install_no_handlers():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with raising_on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


STUCK = """
import ctypes, sys
from siam.system import signals
signals._STUCK = 0.5
with signals.raising_on_signals():
    print("here", flush=True)
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
    lock(mutex), lock(mutex)  # C code that does not return to Python
"""


def test_c_code_that_does_not_return_is_ended():
    """As in a collective whose peer is silent: the process ends, although the handler is never called."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCES}
    ) as process:
        assert process.stdout.readline() == b"here\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_does_not_wait_for_images_that_do_not_come(monkeypatch, number):
    """A system call that blocks, as a file on a server that is gone, is left after a few seconds."""
    monkeypatch.setattr(StopRequest, "LIMIT", 0.5)
    reader, writer = os.pipe()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), number)).start()
    started = time.monotonic()
    with StopRequest() as stop, pytest.raises(GaveUpWaiting), stop.waiting():
        os.read(reader, 1)
    assert stop.requested
    assert 0.5 <= time.monotonic() - started < 30
    os.close(reader)
    os.close(writer)


def test_a_stop_waits_for_images_that_do_come(monkeypatch):
    monkeypatch.setattr(StopRequest, "LIMIT", 0.3)
    with StopRequest() as stop:
        with stop.waiting():
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.6)
        assert stop.requested


@pytest.fixture
def silent_server():
    """A server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(100)
        yield server


def ends_within(process, seconds, status):
    assert process.ended(seconds), process.stderr
    assert process.wait() == status, process.stderr
    return process.said()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("verb", ["shard", "pretrain", "bench"])
def test_a_server_that_never_answers_does_not_keep_a_verb_from_ending(silent_server, tmp_path, verb, number):
    address = f"http://127.0.0.1:{silent_server.getsockname()[1]}"
    process = Command(
        verb, f"{address}/a-{{0..3}}.tar", *([] if verb == "bench" else ["--out", tmp_path / "o"])
    )
    with silent_server.accept()[0] as connection:
        assert connection.recv(1), "it has asked"
        assert not process.ended(0.5), process.stderr
        process.signal(number)
        said = ends_within(process, 15, 128 + number)
    assert said.endswith(f"siam: stopped by {number.name}")
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_embedding_that_is_stopped_continues_with_its_parts(photos, tmp_path):
    run, out = tmp_path / "run", tmp_path / "v.parquet"
    assert Command("pretrain", photos, *TINY, "--epochs", 1, "--out", run).wait() == 0
    for i in range(2000):
        os.link(photos / f"{i % 24:03d}.jpg", photos / f"more-{i:04d}.jpg")
    args = ["embed", run, photos, "--out", out, "--batch-size", 4, "--workers", 1]
    process = Command(*args)
    while len(list(tmp_path.glob("v.parquet.parts/0-*.parquet"))) < 2:
        assert not process.ended(0.01), process.stderr
    process.signal(signal.SIGTERM)
    assert ends_within(process, 15, 143).endswith("siam: stopped by SIGTERM")
    assert not out.exists()
    assert not list(tmp_path.glob("**/*.writing*"))
    assert len(list(tmp_path.glob("v.parquet.parts/0-*.parquet"))) < 32
    assert Command(*args[:-1], 0).wait() == 0  # without a worker, which would import torch
    assert pyarrow.parquet.read_metadata(out).num_rows == 2024


@pytest.mark.slow
def test_an_evaluation_is_stopped_while_it_trains(classes, tmp_path):
    run = tmp_path / "run"
    assert Command("pretrain", classes, *TINY, "--epochs", 1, "--out", run).wait() == 0
    args = ["--protocol", "linear", "--epochs", 100_000, "--workers", 0]
    process = Command("evaluate", run, classes, *args)
    time.sleep(4)
    process.signal(signal.SIGHUP)
    assert ends_within(process, 15, 129).endswith("siam: stopped by SIGHUP")


@pytest.mark.slow
def test_a_run_whose_terminal_closes_is_saved(photos, tmp_path):
    """SIGHUP, and a terminal that can no longer be written to."""
    run = tmp_path / "run"
    args = ["pretrain", photos, *TINY, "--epochs", 100_000, "--monitor.knn-every", 0, "--out", run]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"})
        os.execv(sys.executable, [sys.executable, "-m", "siam", *map(str, args)])
    try:
        deadline = time.monotonic() + 200
        while not (run / "checkpoint.pt").exists():
            assert time.monotonic() < deadline
            select.select([terminal], [], [], 0.1)
            with contextlib.suppress(OSError):
                os.set_blocking(terminal, False)
                os.read(terminal, 10**5)
        before = load_last(run)[0]["progress"]["step"]
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    saved, complaint = load_last(run)
    assert not complaint
    assert saved["progress"]["step"] >= before


def test_a_deferred_signal_arrives_after_the_block():
    done = []

    def work():
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append("the block")
        done.append("after it")

    with pytest.raises(Stopped, match="SIGTERM"), raising_on_signals():
        work()
    assert done == ["the block"]
