"""Expand a shard pattern, or a folder that contains only shards, into a list of files."""

import contextlib
import glob
import os
import re
from functools import lru_cache

from siam.data.kinds import IMAGE_SUFFIXES, is_side_folder
from siam.data.remote import is_remote, listed
from siam.errors import DataError

SHARDS = (".tar", ".parquet")
_DEEPEST = 3  # levels of folders in which to look for shards


@lru_cache(maxsize=8)
def expand_shards(name: str) -> tuple[str, ...]:
    """Expand a file, pattern, or folder of shards into tar shards or Parquet files.

    Patterns may contain {000..099}, {a,b}, * and ?, and may be URLs. Returns () for any
    other name. Results are cached because several sources expand the same name;
    `open_images` clears the cache. Raises DataError if there are both tar and Parquet
    files, or if none are found at a URL.
    """
    remote = is_remote(name)
    found = [one for part in _braces(name) for one in _starred(part, remote)]
    if len(found) == 1 and not found[0].endswith(SHARDS) and (remote or os.path.isdir(name)):
        found = listed(name.rstrip("/")) if remote else _shards_in(name)
    found = [one for one in found if one.endswith(SHARDS)]
    if found == [name] and name.endswith(".tar") and not remote:
        return ()  # a single tar is split by its member names: sources/tar.py
    if len({one.endswith(".tar") for one in found}) > 1:
        raise DataError(
            f"{name} matches both tar and Parquet files: use a pattern that matches only one kind"
        )
    if remote and not found:
        raise DataError(f"found no .tar or .parquet files at {name}")
    return tuple(found)


def _shards_in(folder: str) -> list[str]:
    """Return the shards in a folder and its subfolders, sorted; [] if there are also images.

    A dataset from the Hugging Face Hub has a README.md and, in data/ or a folder per
    configuration and split, Parquet files.
    """
    return sorted(_shards_below(folder, _DEEPEST) or [])


def _shards_below(folder: str, levels: int) -> list[str] | None:
    """Return the shards in a folder and `levels` of subfolders; None if there are images or more levels."""
    found: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_side_folder(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                below = _shards_below(entry.path, levels - 1) if levels else None
                if below is None:
                    return None
                found += below
            elif entry.name.endswith(SHARDS):
                found.append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                return None
    return found


def _braces(pattern: str) -> list[str]:
    """Expand braces: a-{00..02}.tar becomes a-00.tar, a-01.tar and a-02.tar."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None or os.path.exists(pattern):
        return [pattern]
    first, last, either = match.groups()
    if either is not None:
        choices = either.split(",")
    else:
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [one for c in choices for one in _braces(pattern[: match.start()] + c + pattern[match.end() :])]


def _starred(pattern: str, remote: bool) -> list[str]:
    if not any(c in pattern for c in "*?[") or os.path.exists(pattern):
        return [pattern]
    return listed(pattern) if remote else sorted(glob.glob(pattern))
