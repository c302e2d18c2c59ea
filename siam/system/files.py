"""Write files atomically, and lock run folders."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from siam.errors import RunError


def write_atomically(
    path: Path, write: Callable[[BinaryIO], Any], then: Callable[[], None] = lambda: None
) -> None:
    """Write a file so that a crash leaves either its old contents or its new contents.

    Writes a temporary file, flushes it to disk, calls `then`, and renames the file to
    `path`. If writing fails (for example, because the disk is full), removes the
    temporary file and raises OSError.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    then()
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that renames survive a crash; a no-op on Windows."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder's lock for the duration of the block.

    The lock is also released if the process is killed. Raises RunError if another
    process holds the lock or the folder is not writable.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{folder} is in use by another process: wait for it to finish, or choose another --out"
        ) from None
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Hold a lock while a file in the run folder is updated.

    Waits if another process holds the lock.
    """
    with FileLock(folder / ".turn"):
        yield
