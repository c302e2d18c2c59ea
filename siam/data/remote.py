"""Read, list and cache remote files with fsspec.

SIAM_CACHE sets the cache folder (default: ~/.cache/siam/fetched), and SIAM_CACHE_SIZE
its maximum size in GB (default: 50).
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from siam.errors import DataError, first_line
from siam.system.files import write_atomically

_ATTEMPTS = 4
_SILENCE = 60.0
"""Seconds without a byte after which a connection is given up. A slow download may take any time."""
_PATIENCE = 3600.0
"""Seconds without a block after which the download of another process is no longer waited for."""
_BLOCK = 2**22  # bytes
_HUB = "; datasets of the Hugging Face Hub are at hf://datasets/OWNER/NAME"
_EXTRAS = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp",
    "hf": "huggingface_hub",
}  # fmt: skip


def is_remote(name: str) -> bool:
    """Return True if `name` is a URL, such as s3://..., gs://..., hf://... or https://..."""
    scheme, found, _ = name.partition("://")
    return bool(found) and scheme.isalnum()


def read(url: str) -> bytes:
    """Return the contents of a small remote file, without caching it. Raises DataError."""
    file, path = _system(url)
    try:
        data: bytes = file.cat_file(path)
    except Exception as error:  # each protocol has its own errors
        raise DataError(f"{url} cannot be read: {first_line(_cause(error))}") from None
    return data


def listed(url: str) -> list[str]:
    """Return the sorted URLs that match a pattern (*, ?, []) or are in a folder.

    Raises DataError.
    """
    with _listing(url) as (system, path):
        found = system.glob(path) if any(c in url for c in "*?[") else system.ls(path, detail=False)
    return _as_urls(url, found)


def listed_below(url: str, levels: int) -> list[str]:
    """Return the sorted URLs of all files in a folder, and in its subfolders up to `levels` deep.

    Returns none for a web server, whose pages may link to anything. Raises DataError.
    """
    if url.startswith(("http://", "https://")):
        return []
    with _listing(url) as (system, path):
        found = system.find(path, maxdepth=levels)
    return _as_urls(url, found)


@contextlib.contextmanager
def _listing(url: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system for a URL, and the path within it. Raises DataError if the block raises."""
    system, path = _system(url)
    try:
        yield system, path
    except Exception as error:
        hint = _HUB if url.startswith("hf://") and not url.startswith("hf://datasets/") else ""
        raise DataError(f"{url} cannot be listed: {first_line(_cause(error))}{hint}") from None


def _as_urls(url: str, paths: Iterable[str]) -> list[str]:
    scheme = url.partition("://")[0]
    return sorted(one if is_remote(one) else f"{scheme}://{one.lstrip('/')}" for one in paths)


def fetch(url: str) -> Path:
    """Download a file into the cache unless it is already there, and return its path.

    All processes share the cache; when it is full, the least recently used files are
    removed. Raises DataError if the file does not exist or 4 attempts fail.
    """
    file = _cached(url)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _downloading(_lock(file), url):  # one process downloads, the others wait
        if not file.exists():
            _download(url, file)
            _make_room(file.parent, keep=file)
    with contextlib.suppress(OSError):
        os.utime(file)  # record the time of last use
    return file


def _cached(url: str) -> Path:
    """Return the file of the cache for a URL."""
    folder = Path(os.environ.get("SIAM_CACHE", Path.home() / ".cache" / "siam" / "fetched"))
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{_base(url)}"


def _lock(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")


@contextmanager
def _downloading(lock: Path, url: str) -> Iterator[None]:
    """Hold a lock while a file is downloaded. Raises DataError if another process does not go on with it."""
    held, seen = FileLock(lock), 0
    while True:
        try:
            held.acquire(timeout=_PATIENCE)
            break
        except Timeout:
            changed = lock.stat().st_mtime_ns
            if changed == seen:
                raise DataError(
                    f"{url} is being downloaded by another process, which has not gone on for an hour: end it"
                ) from None
            seen = changed
    try:
        yield
    finally:
        held.release()


def _copy(source: BinaryIO, target: BinaryIO, lock: Path) -> None:
    """Copy a file block by block, and touch the lock for those who wait for it."""
    while block := source.read(_BLOCK):
        target.write(block)
        lock.touch()


def _base(url: str) -> str:
    """Return the name of a remote file, without the query of a web address."""
    path = url.partition("?")[0] if url.startswith("http") else url
    return path.rpartition("/")[2]


def _download(url: str, file: Path) -> None:
    system, path = _system(url)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with system.open(path, "rb") as source:
                write_atomically(file, lambda target: _copy(source, target, _lock(file)))
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, FileNotFoundError) or getattr(cause, "status", 0) in (404, 410):
                raise DataError(f"{url} does not exist") from None
            if attempt == _ATTEMPTS:
                raise DataError(f"{url} cannot be downloaded: {first_line(cause)}") from None
            time.sleep(2.0 ** (attempt - 2))
        else:
            return


def _cause(error: BaseException) -> Exception:
    """Return what happened: fsspec reports a server that refuses or cannot be reached as a missing file."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else Exception(str(error))


def _make_room(folder: Path, keep: Path) -> None:
    """Remove the least recently used files until the cache is within its size limit."""
    limit = float(os.environ.get("SIAM_CACHE_SIZE", "50")) * 1e9
    files = []
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may be removing the file
            if not file.name.endswith((".lock", ".writing")):
                files.append((file.stat().st_mtime, file.stat().st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total > limit and file != keep:
            # Windows cannot delete an open file; elsewhere, it can still be read.
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
                total -= size


def _system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system for a URL, and the path within that file system.

    Raises DataError.
    """
    import fsspec

    scheme = url.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(url, **_options(scheme))
    except (ImportError, ValueError) as error:
        remedy = f": pip install {_EXTRAS[scheme]}" if scheme in _EXTRAS else f" ({first_line(error)})"
        raise DataError(f"cannot read {scheme}:// URLs{remedy}") from None
    return system, path


def _options(scheme: str) -> dict[str, Any]:
    """Return fsspec options. aiohttp's default ends every download after 5 minutes, however well it goes."""
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout

    return {
        "client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)}
    }
