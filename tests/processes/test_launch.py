"""Processes that one command starts: silent ones are ended, signals reach all, none listens to others."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from siam.errors import RunError, SettingsError
from siam.processes.gather import rank
from siam.processes.launch import launch
from siam.processes.rendezvous import process_group


def is_silent_at_the_end(number):
    if int(os.environ["RANK"]) == number:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "done"


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("number", [0, 1])
def test_a_silent_process_does_not_hold_up_the_command(monkeypatch, number):
    """The other gives up after its timeout; the command does not wait for the silent one for ever."""
    monkeypatch.setattr("siam.processes.launch._GRACE", 5.0)
    with pytest.raises(RunError, match=f"process {number} of 2 did not respond and was ended") as caught:
        launch(2, stops_in_an_exchange, number)
    assert caught.value.exit_status == 75


def stops_in_an_exchange(number):
    with process_group("cpu", 5):
        if rank() == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.barrier()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_process_that_is_silent_at_the_end_costs_no_result(monkeypatch):
    monkeypatch.setattr("siam.processes.launch._GRACE", 3.0)
    assert launch(2, is_silent_at_the_end, 1) == "done"
    with pytest.raises(RunError, match="process 0 of 2 did not respond"):
        launch(2, is_silent_at_the_end, 0)


def test_launching_from_a_daemonic_process_names_the_way_out(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(SettingsError, match=r"devices 2 needs processes of its own, .*: use devices 1"):
        launch(2, is_silent_at_the_end, 1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
@pytest.mark.parametrize("starter", ["launch", "torchrun"])
def test_processes_of_one_machine_listen_on_loopback_only(tmp_path, monkeypatch, starter):
    """Even if the environment names another interface, and wherever the host name leads.

    torchrun's own port is not the run's, and is left out.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "siam-none")
    found = tmp_path / "found"
    found.mkdir()
    if starter == "launch":
        launch(2, writes_its_sockets, found)
    else:
        script = tmp_path / "script.py"
        script.write_text(
            "import pathlib\nfrom tests.processes.test_launch import writes_its_sockets\n"
            f"writes_its_sockets(pathlib.Path({str(found)!r}))\n"
        )
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            script,
        ]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(command, check=True, env=environment, timeout=120)
    places = [line for file in found.iterdir() for line in file.read_text().split()]
    assert len(places) >= 2
    assert all(place.startswith("127.") for place in places), places


def writes_its_sockets(folder):
    """Write the addresses on which this process, and the one that launched it, listen."""
    with process_group("cpu", 60):
        dist.barrier()
        listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
        own = [os.getpid()] + ([os.getppid()] if "SIAM_LAUNCHED_BY" in os.environ else [])
        lines = [line.split()[3] for line in listed if any(f"pid={pid}," in line for pid in own)]
        (folder / str(rank())).write_text("\n".join(lines))
        dist.barrier()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_signal_reaches_a_stopped_process_too(tmp_path):
    """SIGTERM alone waits until the process goes on: it is continued."""
    threading.Thread(target=interrupt_when_ready, args=(tmp_path,)).start()
    assert launch(2, waits_for_sigterm, tmp_path) == "heard"


def interrupt_when_ready(folder):
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def waits_for_sigterm(folder):
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    (folder / os.environ["RANK"]).touch()
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    while not heard:
        time.sleep(0.05)
    return "heard"
