"""Write files atomically, read regular files only, and lock run folders."""

import contextlib
import errno
import os
import stat
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


def regular(path: str | Path) -> Path:
    """Return the path of a regular file, to be read.

    Raises OSError if it does not exist, or is a pipe or a device: reading these may never end.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError:  # names in lists and annotations may contain anything
        raise OSError(errno.EINVAL, "the name contains a NUL character", str(path)) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


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
