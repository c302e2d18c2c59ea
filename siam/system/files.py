"""Atomic writes, and run-folder locks."""

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
    """Write a temporary file, flush it to disk and rename it; a crash leaves either the old file or the new.

    then: called before the rename. If writing fails, as on a full disk, the temporary file is removed. Raises
    OSError.
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
    """Flush a folder's entries to disk, as fsync does a file's bytes; a no-op on Windows, which cannot."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process; the system releases the lock when the process exits or is killed.

    Raises RunError if another process holds the lock or the folder is not writable.
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
    """Lock a run folder briefly to update one of its files, waiting while another process does so."""
    with FileLock(folder / ".turn"):
        yield
