"""Files that are whole or not there, and folders that one process holds."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from siam.errors import RunError


def write_atomically(
    path: Path, write: Callable[[BinaryIO], Any], then: Callable[[], None] = lambda: None
) -> None:
    """Write beside the name, flush to disk, then move into place: a crash leaves the old file or the new.

    then: done between the two. Where the disk is full, what was begun is removed. Raises OSError.
    """
    beside = path.with_name(path.name + ".writing")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    then()
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder survive a loss of power, as fsync lets the bytes."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; the lock ends with the process, however it ends."""
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder} is in use by another process: wait for it, or choose another --out"
            ) from None
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One process after another, where several add to what the run folder holds already."""
    with (folder / ".turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
