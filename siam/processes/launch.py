"""Several processes on this machine, without torchrun: for a user who merely has several GPUs."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from siam.errors import RunError, SettingsError, SiamError
from siam.processes.rendezvous import ProcessLostError
from siam.system.main_module import without_main_reimport

T = TypeVar("T")

_GRACE = 20.0  # seconds that the others have to end by themselves once a process is gone
_OURS = "SIAM_LAUNCHED_BY"  # process that started this one


def how_many(devices: int, device: str, batch_size: int, parts: int = 1) -> int:
    """Processes to start here: as asked for, or as many GPUs as share the batch equally.

    parts: of a process's share that pass one after another (`grad_accum`), equal as well.
    Raises SettingsError where the batch cannot be shared.
    """
    if devices == 0:
        gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
        return max((n for n in range(1, gpus + 1) if _shares(batch_size, n * parts)), default=1)
    if devices > 1 and device not in ("auto", "cuda", "cpu"):
        raise SettingsError(f"devices {devices} cannot all be '{device}': give --device cuda or cpu")
    gpus = torch.cuda.device_count()
    if gpus and device != "cpu" and devices > gpus:
        raise SettingsError(f"devices {devices} asked for, but there are {gpus} here")
    require_equal_shares(batch_size, devices, parts)
    return devices


def require_equal_shares(batch_size: int, processes: int, parts: int = 1) -> None:
    """Raises SettingsError unless each part in each process is of as many images, at least 2."""
    if not _shares(batch_size, processes * parts):
        each = "each" if parts == 1 else f"each of the {parts} parts of gradient accumulation"
        raise SettingsError(
            f"batch_size {batch_size} cannot be shared by {processes} processes: it must be a multiple of "
            f"{processes * parts}, with at least 2 images for {each}"
        )


def _shares(batch_size: int, among: int) -> bool:
    return batch_size % among == 0 and batch_size >= 2 * among


def launch(processes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run work(*arguments) in several processes on this machine: what the first one returns, no tensor.

    SIGTERM and SIGINT are passed on to them. Raises the SiamError that one of them raised, or RunError that
    says how one died.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members, ends = [], []
    for number in range(processes):
        end, theirs = context.Pipe(duplex=False)
        place = {
            "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, _OURS: os.getpid(),
        }  # fmt: skip
        member = context.Process(target=_member, args=(place, theirs, work, arguments))
        with without_main_reimport():
            member.start()
        theirs.close()
        members.append(member)
        ends.append(end)
    with _passing_on([member.pid for member in members if member.pid]):
        answers = _wait_for(members, ends)
    for number, member in enumerate(members):
        if number not in answers:
            code = member.exitcode or 0
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            raise RunError(
                f"process {number} of {processes} {how}; the last checkpoint is kept: go on with --resume"
            )
    errors = [value for value in answers.values() if isinstance(value, SiamError)]
    if errors:
        raise next((error for error in errors if not isinstance(error, ProcessLostError)), errors[0])
    result: T = answers[0]
    return result


def _member(place: dict[str, Any], answer: Connection, work: Callable[..., Any], arguments: Any) -> None:
    """Be one of the processes of `launch`."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which passes it on once
    os.environ.update({name: str(value) for name, value in place.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(place["WORLD_SIZE"])))
    try:
        result = work(*arguments)
        answer.send(result if place["RANK"] == 0 else None)
    except SiamError as error:
        answer.send(error)


def _wait_for(members: list[Any], ends: list[Connection]) -> dict[int, Any]:
    """Answers by rank, when all processes have ended. Once one is gone without an answer, the others must."""
    answers: dict[int, Any] = {}
    open_ends = {end: number for number, end in enumerate(ends)}
    patience = None
    while open_ends:
        ready = wait(list(open_ends), patience)
        if not ready:
            for number in open_ends.values():
                members[number].kill()
        for end in ready:
            assert isinstance(end, Connection)
            number = open_ends.pop(end)
            try:
                answers[number] = end.recv()
            except EOFError:
                patience = _GRACE
    for member in members:
        member.join(_GRACE)
        if member.exitcode is None:
            member.kill()
            member.join()
    return answers


@contextmanager
def _passing_on(pids: list[int]) -> Iterator[None]:
    """What this process is asked to end by, its members are."""

    def pass_on(number: int, frame: Any) -> None:
        for pid in pids:
            if os.path.exists(f"/proc/{pid}") or not os.path.exists("/proc"):
                os.kill(pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def orphaned() -> bool:
    """Whether `launch` started this process and is gone."""
    return _OURS in os.environ and int(os.environ[_OURS]) != os.getppid()
