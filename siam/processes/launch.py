"""Launch several processes on one machine without torchrun.

torchrun's `elastic_launch` is unsuitable: on SIGTERM, it discards its workers' results,
and workers that have already saved and returned hang until it kills them.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from siam.errors import RunError, SettingsError, SiamError
from siam.processes.rendezvous import ProcessLostError
from siam.system.main_module import without_main_reimport

T = TypeVar("T")

_GRACE = 20.0  # seconds the other processes have to exit once one has died
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

    The result must not contain tensors. SIGTERM and SIGINT are forwarded to the
    processes. Raises RunError if a process dies, and re-raises any SiamError from a
    process.
    """
    context = multiprocessing.get_context("spawn")
    # Host the store on a free port; the processes connect to it, as under torchrun.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    members: list[BaseProcess] = []
    receivers: list[Connection] = []
    for number in range(processes):
        environment = {
            "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": store.host, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
            _LAUNCHER: os.getpid(),
        }  # fmt: skip
        receiver, sender = context.Pipe(duplex=False)
        member = context.Process(target=_member, args=(environment, sender, work, arguments))
        with without_main_reimport():
            member.start()
        sender.close()
        members.append(member)
        receivers.append(receiver)
    with _forwarding_signals(members):
        answers, lost = _collect(members, receivers)
    if lost:
        code = members[lost[0]].exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        raise RunError(
            f"process {lost[0]} of {processes} {how}; continue from the last checkpoint with --resume"
        )
    errors = [value for value in answers.values() if isinstance(value, SiamError)]
    if errors:  # if one process fails, the others lose contact: raise the cause
        raise next((error for error in errors if not isinstance(error, ProcessLostError)), errors[0])
    result: T = answers[0]
    return result


def _member(
    environment: dict[str, Any], sender: Connection, work: Callable[..., Any], arguments: Any
) -> None:
    """Run work(*arguments) in a launched process, and send back the result or error."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches only the parent, which forwards it once
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

    Returns results (or errors) by rank, and the ranks that died without reporting. Once
    a process has died, the others have 20 s to exit before they are killed.
    """
    answers: dict[int, Any] = {}
    lost: list[int] = []
    pending = {receiver: number for number, receiver in enumerate(receivers)}
    while pending:
        ready = wait(list(pending), _GRACE if lost else None)
        if not ready:
            for number in pending.values():
                members[number].kill()
        for receiver in ready:
            assert isinstance(receiver, Connection)
            number = pending.pop(receiver)
            try:
                answers[number] = receiver.recv()
            except EOFError:
                lost.append(number)
    for member in members:
        member.join(_GRACE)
        member.kill()
        member.join()
    return answers, lost


@contextmanager
def _forwarding_signals(members: list[BaseProcess]) -> Iterator[None]:
    """Forward SIGTERM and SIGINT to the processes.

    A no-op outside the main thread, where Python does not allow signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: Any) -> None:
        for member in members:
            if member.pid and member.is_alive():
                os.kill(member.pid, number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def orphaned() -> bool:
    """Return True if `launch` started this process from a process that has exited."""
    return _LAUNCHER in os.environ and int(os.environ[_LAUNCHER]) != os.getppid()
