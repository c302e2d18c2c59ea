"""Start several processes on this machine, for a user who has several GPUs but no torchrun.

torchrun's `elastic_launch` does not serve: sent SIGTERM, it drops the results of its workers, and those that
have saved and returned wait for it until it kills them.
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

_GRACE = 20.0  # seconds that the others have to end by themselves once a process is lost
_LAUNCHER = "SIAM_LAUNCHED_BY"  # id of the process that called `launch`


def how_many(devices: int, device: str, batch_size: int, parts: int = 1) -> int:
    """Return the number of processes to start here: `devices`, or all GPUs that can share the batch equally.

    devices: 0 chooses. parts: micro-batches of each process's share (`grad_accum`), equal as well.
    Raises SettingsError if the batch cannot be shared.
    """
    if devices == 0:
        gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
        return max((n for n in range(1, gpus + 1) if _is_shared_equally(batch_size, n * parts)), default=1)
    if devices > 1 and device not in ("auto", "cuda", "cpu"):
        raise SettingsError(f"devices {devices} cannot all be '{device}': give --device cuda or cpu")
    gpus = torch.cuda.device_count()
    if gpus and device != "cpu" and devices > gpus:
        raise SettingsError(f"devices {devices} asked for, but this machine has {gpus}: lower --devices")
    require_equal_shares(batch_size, devices, parts)
    return devices


def require_equal_shares(batch_size: int, processes: int, parts: int = 1) -> None:
    """Raise SettingsError unless all micro-batches of all processes have the same size, at least 2 images."""
    if not _is_shared_equally(batch_size, processes * parts):
        each = "each" if parts == 1 else f"each of the {parts} parts of gradient accumulation"
        raise SettingsError(
            f"batch_size {batch_size} cannot be shared by {processes} processes: it must be a multiple of "
            f"{processes * parts}, with at least 2 images for {each}"
        )


def _is_shared_equally(batch_size: int, among: int) -> bool:
    return batch_size % among == 0 and batch_size >= 2 * among


def launch(processes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run work(*arguments) in several processes on this machine, and return the result of rank 0: no tensor.

    SIGTERM and SIGINT are forwarded to them. Raises the SiamError that one of them raised, or RunError that
    says how one died.
    """
    context = multiprocessing.get_context("spawn")
    # A server on a free port that this process holds to the end; the members are clients, as under torchrun.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    members: list[BaseProcess] = []
    receivers: list[Connection] = []
    for number in range(processes):
        place = {
            "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": store.host, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
            _LAUNCHER: os.getpid(),
        }  # fmt: skip
        receiver, sender = context.Pipe(duplex=False)
        member = context.Process(target=_member, args=(place, sender, work, arguments))
        with without_main_reimport():
            member.start()
        sender.close()
        members.append(member)
        receivers.append(receiver)
    with _forwarding_signals(members):
        answers, lost = _collect(members, receivers)
    if lost:
        code = members[lost[0]].exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise RunError(
            f"process {lost[0]} of {processes} {how}; continue from the last checkpoint with --resume"
        )
    errors = [value for value in answers.values() if isinstance(value, SiamError)]
    if errors:  # one error makes the others lose that process: raise the cause
        raise next((error for error in errors if not isinstance(error, ProcessLostError)), errors[0])
    result: T = answers[0]
    return result


def _member(place: dict[str, Any], sender: Connection, work: Callable[..., Any], arguments: Any) -> None:
    """Be one of the processes of `launch`: send the result or the SiamError of work(*arguments)."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which forwards it once
    os.environ.update({name: str(value) for name, value in place.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(place["WORLD_SIZE"])))
    try:
        result = work(*arguments)
        sender.send(result if place["RANK"] == 0 else None)
    except SiamError as error:
        sender.send(error)


def _collect(members: list[BaseProcess], receivers: list[Connection]) -> tuple[dict[int, Any], list[int]]:
    """Wait for all processes to end. Returns their answers by rank, and the ranks that died without one.

    Once one died, the others have 20 s to end; then they are killed.
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
    """Forward SIGTERM and SIGINT to the members. Python handles signals in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: Any) -> None:
        for member in members:
            if member.pid and member.is_alive():
                os.kill(member.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def orphaned() -> bool:
    """Return True if `launch` started this process and its parent has ended since."""
    return _LAUNCHER in os.environ and int(os.environ[_LAUNCHER]) != os.getppid()
