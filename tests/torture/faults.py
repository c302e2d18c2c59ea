"""The faults: what is done to a command before it starts or at a random moment, and how it is undone."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from tests.command import Command
from tests.torture.verbs import Verb, World

Undo = Callable[[], object]


@dataclass
class Scene:
    """A run that is to be disturbed."""

    verb: Verb
    world: World
    out: Path
    rng: random.Random
    size: int
    """Bytes that an undisturbed run leaves in `out`."""
    undo: list[Undo] = field(default_factory=list)

    @property
    def data(self) -> Path:
        folder: Path = getattr(self.world, self.verb.data)
        return folder


@dataclass(frozen=True)
class Fault:
    """Something that happens to a command."""

    during: Callable[[Scene, Command], None] | None = None
    """Done at a random moment of the run."""
    before: Callable[[Scene], None] | None = None
    """Done before the start."""
    inside: Callable[[random.Random], Callable[[], None]] | None = None
    """Draws what is done within the process, before the verb."""
    exact: bool = True
    """Whether the result must be equal to the bit."""
    fits: Callable[[Verb], bool] = lambda verb: True


def _signal(number: int) -> Callable[[Scene, Command], None]:
    def send(scene: Scene, command: Command) -> None:
        with contextlib.suppress(ProcessLookupError):
            command.signal(number)

    return send


def _kill_all(scene: Scene, command: Command) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.process.pid, signal.SIGKILL)


def _stop_and_continue(scene: Scene, command: Command) -> None:
    """Stop all processes, or only one, for up to two seconds."""
    pid = command.process.pid
    with contextlib.suppress(ProcessLookupError):
        if scene.rng.random() < 0.5:
            os.killpg(pid, signal.SIGSTOP)
        else:
            os.kill(scene.rng.choice([pid, *descendants(pid)]), signal.SIGSTOP)
        time.sleep(scene.rng.uniform(0.2, 2))
        os.killpg(pid, signal.SIGCONT)


def _lose_a_helper(scene: Scene, command: Command) -> None:
    """Kill one of the processes that work for the command, once there is one."""
    _kill_a_helper(command, scene.rng.choice)


def _out_of_memory(scene: Scene, command: Command) -> None:
    """Kill the largest of the processes that work for the command, as the kernel does."""
    _kill_a_helper(command, lambda pids: max(pids, key=_resident))


def _kill_a_helper(command: Command, choose: Callable[[list[int]], int]) -> None:
    deadline = time.monotonic() + 5
    while not (pids := descendants(command.process.pid)) and time.monotonic() < deadline:
        if command.ended(0.01):
            return
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(choose(pids), signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return 0


def _lose_data(scene: Scene, command: Command) -> None:
    away = scene.data.with_name(f"{scene.data.name}-away")
    scene.data.rename(away)
    scene.undo.append(lambda: away.rename(scene.data))


def _full_disk(scene: Scene) -> None:
    """Put the output on a disk that is too small for it; undo by making the disk larger."""
    if scene.verb.copies_run:
        kilobytes = bytes_in(scene.world.run) // 1024 + 100 + scene.rng.randrange(600)
    else:
        kilobytes = max(8, int(scene.rng.uniform(0.05, 1.2) * scene.size / 1024))
    place = str(scene.out)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place], check=True)
    scene.undo.append(lambda: subprocess.run(["mount", "-o", "remount,size=256m", place], check=True))


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _small_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _limit_files(rng: random.Random) -> Callable[[], None]:
    return partial(_small_files, rng.choice((4, 20, 60, 200, 600)) * 1024)


def _jump(calls: int, seconds: float) -> None:
    """Let the clock of this process jump after some readings of it."""
    true, left = time.time, [calls]

    def jumping() -> float:
        left[0] -= 1
        return true() + (seconds if left[0] < 0 else 0)

    time.time = jumping


def _clock(rng: random.Random) -> Callable[[], None]:
    return partial(_jump, rng.randrange(40), rng.choice((-86400, -30, 3600, 86400 * 400)))


def _threads(rng: random.Random) -> Callable[[], None]:
    return partial(torch.set_num_threads, rng.choice((2, 3)))


def _has_data(verb: Verb) -> bool:
    return bool(verb.data)


def _has_helpers(verb: Verb) -> bool:
    return verb.helpers


def _can_mount(folder: Path) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return done.returncode == 0


def all_faults(folder: Path) -> dict[str, Fault]:
    """Return the faults by name. folder: an empty folder, to find out whether disks can be mounted."""
    disk = Fault(before=_full_disk) if _can_mount(folder) else Fault(inside=_limit_files)
    return {
        "SIGKILL": Fault(_kill_all),
        "SIGKILL, main process": Fault(_signal(signal.SIGKILL)),
        "SIGSTOP, SIGCONT": Fault(_stop_and_continue),
        "SIGTERM": Fault(_signal(signal.SIGTERM)),
        "SIGINT": Fault(_signal(signal.SIGINT)),
        "SIGHUP": Fault(_signal(signal.SIGHUP)),
        "full disk": disk,
        "file size limit": Fault(inside=_limit_files),
        "lost worker": Fault(_lose_a_helper, fits=_has_helpers),
        "out of memory": Fault(_out_of_memory, fits=_has_helpers),
        "data moved away": Fault(_lose_data, fits=_has_data),
        "clock jump": Fault(inside=_clock),
        "other threads": Fault(inside=_threads, exact=False),
    }
