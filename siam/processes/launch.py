"""Launch several processes on one machine without torchrun.

torchrun's `elastic_launch` is unsuitable: on SIGTERM, it discards its workers' results,
and workers that have already saved and returned hang until it kills them.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from siam.errors import SettingsError, SiamError
from siam.processes.rendezvous import ProcessLostError
from siam.system.main_module import start_tracker, without_main_reimport
from siam.system.signals import DUPLICATE, handling, stop_signals

T = TypeVar("T")

_GRACE = 20.0  # seconds the other processes have to exit once one has ended
_CONTEXT = multiprocessing.get_context("spawn")  # a fork would inherit the state of CUDA
_LAUNCHER = "SIAM_LAUNCHED_BY"  # id of the process that called `launch`


def how_many(devices: int, device: str, batch_size: int, micro_batches: int = 1) -> int:
    """Return the number of processes to start on this machine.

    devices: number of processes, or 0 for as many GPUs as divide the batch evenly.
    micro_batches: number of equal micro-batches per process and step (`grad_accum`).
    Raises SettingsError if the batch cannot be split evenly or the devices are not
    available.
    """
    if devices == 0:
        gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
        counts = (n for n in range(1, gpus + 1) if _is_shared_equally(batch_size, n * micro_batches))
        return max(counts, default=1)
    if devices > 1 and device not in ("auto", "cuda", "cpu"):
        raise SettingsError(f"devices {devices} requires --device cuda or cpu, got '{device}'")
    gpus = torch.cuda.device_count()
    if gpus and device != "cpu" and devices > gpus:
        raise SettingsError(
            f"devices {devices} exceeds the number of GPUs on this machine ({gpus}): lower --devices"
        )
    require_equal_shares(batch_size, devices, micro_batches)
    return devices


def require_equal_shares(batch_size: int, processes: int, micro_batches: int = 1) -> None:
    """Raise SettingsError unless the batch splits evenly into micro-batches.

    Each micro-batch needs at least 2 images.
    """
    if not _is_shared_equally(batch_size, processes * micro_batches):
        each = "process" if micro_batches == 1 else f"of the {micro_batches} micro-batches per process"
        raise SettingsError(
            f"batch_size {batch_size} cannot be split evenly across {processes} processes: "
            f"set it to a multiple of {processes * micro_batches}, with at least 2 images for each {each}"
        )


def _is_shared_equally(batch_size: int, among: int) -> bool:
    return batch_size % among == 0 and batch_size >= 2 * among


def launch(processes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run work(*arguments) in several processes on this machine and return rank 0's result.

    The result must not contain tensors. Stop signals are forwarded to the processes. Raises
    ProcessLostError if a process dies or does not respond, and re-raises any SiamError from a process.
    """
    if multiprocessing.current_process().daemon:
        raise SettingsError(
            f"devices {processes} needs processes of its own, which a daemonic process such as a worker of "
            "multiprocessing.Pool or Celery cannot start: use devices 1, or start the run from elsewhere"
        )
    start_tracker()
    store = _store_on_loopback()
    members: list[BaseProcess] = []
    receivers: list[Connection] = []
    for number in range(processes):
        environment = {
            "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": store.host, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
            _LAUNCHER: os.getpid(),
        }  # fmt: skip
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        member = _CONTEXT.Process(target=_member, args=(environment, sender, work, arguments))
        with without_main_reimport(), _blocked_signals():  # until the new process has its own group
            member.start()
        sender.close()
        members.append(member)
        receivers.append(receiver)
    with _forwarding_signals(members) as stopped_by:
        answers, silent = _collect(members, receivers)
    if stopped_by and any(member.exitcode == -stopped_by[0] for member in members):
        signal.raise_signal(stopped_by[0])  # before the run could be stopped and saved: end like any program
    return _result(answers, silent, members)


def _result(answers: dict[int, Any], silent: list[int], members: list[BaseProcess]) -> Any:
    """Return rank 0's result, or raise the cause of the failure.

    If one process fails, the others lose contact with it, so their errors are not the cause.
    """
    lost = [n for n in range(len(members)) if n not in answers and n not in silent]
    errors = [value for value in answers.values() if isinstance(value, SiamError)]
    causes = [error for error in errors if not isinstance(error, ProcessLostError)]
    if lost:
        code = members[lost[0]].exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        raise ProcessLostError(
            f"process {lost[0]} of {len(members)} {how}; continue from the last checkpoint with --resume"
        )
    if causes:
        raise causes[0]
    if 0 in silent or (silent and errors):
        raise ProcessLostError(
            f"process {silent[0]} of {len(members)} did not respond and was ended; continue from the last "
            "checkpoint with --resume"
        )
    if errors:
        raise errors[0]
    return answers[0]


def _store_on_loopback() -> Any:
    """Host the store through which the processes find each other, reachable from this machine only."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    return dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start processes with stop signals blocked, so that they hear them after their imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _member(
    environment: dict[str, Any], sender: Connection, work: Callable[..., Any], arguments: Any
) -> None:
    """Run work(*arguments) in a launched process, and send back the result or error."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches only the parent, which forwards it once
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training handles it: no traceback
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
    os.environ.update({name: str(value) for name, value in environment.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(environment["WORLD_SIZE"])))
    try:
        result = work(*arguments)
        sender.send(result if environment["RANK"] == 0 else None)
    except SiamError as error:
        sender.send(error)


def _collect(members: list[BaseProcess], receivers: list[Connection]) -> tuple[dict[int, Any], list[int]]:
    """Wait for all processes to exit.

    Returns results (or errors) by rank, and the ranks that did not respond. Processes end together, after a
    last exchange: once one has ended or died, the others have 20 s before they are killed.
    """
    answers: dict[int, Any] = {}
    silent: list[int] = []
    pending = {receiver: number for number, receiver in enumerate(receivers)}
    while pending:
        ready = wait(list(pending), _GRACE if len(pending) < len(members) else None)
        if not ready:
            silent = list(pending.values())
            for number in silent:
                members[number].kill()
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            number = pending.pop(receiver)
            with contextlib.suppress(EOFError):  # it died without an answer
                answers[number] = receiver.recv()
    for member in members:
        member.join(_GRACE)
        member.kill()
        member.join()
    return answers, silent


@contextmanager
def _forwarding_signals(members: list[BaseProcess]) -> Iterator[list[int]]:
    """Forward stop signals to the processes, and yield a list of those that arrived.

    Stopped processes are continued, so that they hear the signal too. A second signal kills all processes. A
    no-op outside the main thread, where Python does not allow signal handlers.
    """
    arrived: list[int] = []
    first = 0.0

    def forward(number: int, frame: Any) -> None:
        nonlocal first
        if not arrived:
            first = time.monotonic()
            numbers = [number, getattr(signal, "SIGCONT", number)]
        elif time.monotonic() - first > DUPLICATE:
            numbers = [getattr(signal, "SIGKILL", number)]
        else:
            return
        arrived.append(number)
        for member in members:
            for each in numbers:
                if member.pid and member.is_alive():
                    os.kill(member.pid, each)
        if len(arrived) > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    with handling(forward):
        yield arrived


def orphaned() -> bool:
    """Return True if `launch` started this process from a process that has exited."""
    return _LAUNCHER in os.environ and int(os.environ[_LAUNCHER]) != os.getppid()
