"""Write files atomically, read regular files only, and lock run folders."""

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from siam.errors import RunError

LOCK = ".lock"
"""The file of a run folder that its writer has locked."""
_TURN = 60.0
"""Seconds to wait for another process that writes to the same run folder."""

Write = Callable[[BinaryIO], Any]
"""Writes the contents of a file to an open binary file."""


def write_atomically(path: Path, write: Write, then: Callable[[], None] = lambda: None) -> None:
    """Write a file so that a crash leaves either its old contents or its new contents.

    Writes a temporary file, flushes it to disk, calls `then`, and renames the file to
    `path`. If anything fails (for example, because the disk is full), removes the
    temporary file and raises. A link at `path` is replaced, not followed.
    """
    write_together({path: write}, then)


def write_together(files: dict[Path, Write], then: Callable[[], None] = lambda: None) -> None:
    """Write several files; none of them appears under its name before all are on disk.

    The files are renamed in the given order. Raises OSError.
    """
    with ExitStack() as opened:
        temporaries = []
        for path, write in files.items():
            temporary = opened.enter_context(_temporary(path.parent))
            write(temporary.file)
            temporary.file.flush()
            os.fsync(temporary.file.fileno())
            temporaries.append((temporary, path))
        then()
        for temporary, path in temporaries:
            temporary.rename(path)
    for folder in {path.parent for path in files}:
        sync_folder(folder)


class _Temporary:
    """An open temporary file: without a name where the system supports it, else with a random one."""

    def __init__(self, folder: Path) -> None:
        self.name = temporary_name(folder)
        try:
            # A file without a name vanishes with its process, even one that is killed.
            descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
            self.named = False
        except (OSError, AttributeError):  # some file systems, and systems other than Linux
            exclusively = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
            descriptor = os.open(self.name, exclusively, 0o666)
            self.named = True
        self.file = os.fdopen(descriptor, "wb")

    def rename(self, path: Path) -> None:
        """Give the file its final name, replacing a file of that name."""
        if not self.named:
            folder = os.open(self.name.parent, os.O_RDONLY)
            try:  # os.link follows the link in /proc only if it is given a folder
                os.link(f"/proc/self/fd/{self.file.fileno()}", self.name.name, dst_dir_fd=folder)
            finally:
                os.close(folder)
        self.file.close()  # Windows cannot rename open files
        self.name.replace(path)


@contextmanager
def _temporary(folder: Path) -> Iterator[_Temporary]:
    temporary = _Temporary(folder)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.file.close()
        with contextlib.suppress(OSError):
            temporary.name.unlink()  # gone if the file has been renamed


def temporary_name(folder: Path) -> Path:
    """Return a random name in `folder`."""
    return folder / f".siam-{secrets.token_hex(8)}.writing"


@contextmanager
def make_folder(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; remove those that were created if the block raises.

    Folders that are not empty are kept.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
        raise


@contextmanager
def writing(place: str | Path, fix: str = "") -> Iterator[None]:
    """Raise RunError if the block raises OSError: cannot write to PLACE: No space left on device.

    fix: the end of the message, such as "; choose another --out".
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {place}: {error.strerror or error}{fix}") from None


ELSEWHERE = "; choose another --out"


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


@contextmanager
def named_in_utf8(file: Path) -> Iterator[Path]:
    """Yield a path of `file` in UTF-8, which some libraries need: if necessary, that of a temporary link."""
    try:
        str(file.absolute()).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "file"
            link.symlink_to(file.absolute())
            yield link
    else:
        yield file


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
    lock = FileLock(folder / LOCK)
    with writing(folder, ELSEWHERE):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{folder} is in use by another process: wait for it to finish, or choose another --out"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a run folder if the block raises, nothing but the lock is in it, and nobody holds that."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RunError):
            if [path.name for path in folder.iterdir()] == [LOCK]:
                with locked(folder):
                    (folder / LOCK).unlink()
                    folder.rmdir()
        raise


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Hold a lock while a file in the run folder is updated, which takes seconds.

    Waits for others for up to a minute. Raises RunError if one does not finish.
    """
    lock = FileLock(folder / ".turn")
    try:
        lock.acquire(timeout=_TURN)
    except Timeout:
        raise RunError(
            f"another process has been writing to {folder} for {_TURN:.0f} s, and may be stopped: "
            "end it, and repeat the command"
        ) from None
    try:
        yield
    finally:
        lock.release()


def same_place(one: str, other: str) -> bool:
    """Return whether two paths lead to the same place: photos, photos/, ~/photos, and links to it."""
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))
