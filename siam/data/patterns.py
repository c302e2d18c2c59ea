"""Expand a shard pattern, or a folder that contains only shards, into a list of files."""

import contextlib
import glob
import os
import re
from functools import lru_cache

from siam.data.kinds import IMAGE_SUFFIXES, is_side_folder
from siam.data.remote import is_remote, listed, listed_below
from siam.errors import DataError

SHARDS = (".tar", ".parquet")
_OTHER_FILES = (
    *IMAGE_SUFFIXES,
    ".zip",
    ".tgz",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
    ".7z",
    ".rar",
    ".csv",
    ".tsv",
    ".txt",
)
_LARGEST_RANGE = 1_000_000
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
    found = expand(name)
    if len(found) == 1 and not kind_of_shard(found[0]) and (remote or os.path.isdir(name)):
        found = tuple(_shards_at(name.rstrip("/")) if remote else _shards_in(name))
    found = _without_records(tuple(one for one in found if kind_of_shard(one)))
    if found == (name,) and name.endswith(".tar") and not remote:
        return ()  # a single tar is split by its member names: sources/tar.py
    if len(set(map(kind_of_shard, found))) > 1:
        raise DataError(
            f"{name} matches both tar and Parquet files: use a pattern that matches only one kind"
        )
    if remote and not found:
        raise DataError(f"found no .tar or .parquet files at {name}: {_remedy(name)}")
    return found


def _without_records(shards: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out Parquet files next to a tar of the same name: img2dataset's records of its downloads."""
    tars = {one.removesuffix(".tar") for one in shards if one.endswith(".tar")}
    return tuple(one for one in shards if one.removesuffix(".parquet") not in tars)


def kind_of_shard(name: str) -> str:
    """Return ".tar" or ".parquet", the suffix of a shard, or "" for other names. A URL may have a query."""
    path = name.partition("?")[0] if name.startswith(("http://", "https://")) else name
    return next((suffix for suffix in SHARDS if path.endswith(suffix)), "")


def _shards_at(url: str) -> list[str]:
    """Return the shards in a remote folder or, if there are none, in its subfolders.

    Raises DataError for the URL of a file that is no shard.
    """
    suffix = os.path.splitext(url.rpartition("/")[2])[1].lower()
    if suffix in _OTHER_FILES:
        raise DataError(f"{url} is no .tar or .parquet file: {_remedy(url)}")
    found = [one for one in listed(url) if kind_of_shard(one)]
    return found or [one for one in listed_below(url, _DEEPEST + 1) if kind_of_shard(one)]


def _remedy(url: str) -> str:
    """Return what to do about a URL without shards."""
    if url.startswith("hf://datasets/") and "@" not in url:
        converted = "/".join(url.split("/")[:5]) + "@refs/convert/parquet"
        return f"try the Hub's own conversion, {converted}, or download the dataset and pass its folder"
    return "download the images, and pass their folder or the shards that siam shard makes of it"


def _shards_in(folder: str) -> list[str]:
    """Return the shards in a folder and its subfolders, sorted; [] if there are also images.

    A dataset from the Hugging Face Hub has a README.md and, in data/ or a folder per
    configuration and split, Parquet files.
    """
    pictures = os.path.isfile(os.path.join(folder, "README.md")) and any(
        glob.glob(os.path.join(glob.escape(folder), depth, "*.parquet")) for depth in ("", "*", "*/*")
    )
    return sorted(_shards_below(folder, _DEEPEST, pictures) or [])


def _shards_below(folder: str, levels: int, pictures: bool) -> list[str] | None:
    """Return the shards in a folder and `levels` of subfolders; None if there are images or more levels.

    pictures: skip images, which illustrate the README.md of a dataset from the Hub.
    """
    found: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if is_side_folder(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                below = _shards_below(entry.path, levels - 1, pictures) if levels else None
                if below is None:
                    return None
                found += below
            elif entry.name.endswith(SHARDS):
                found.append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and not pictures:
                return None
    return found


def is_pattern(name: str) -> bool:
    """Return True if a name has braces or wildcards, and is not the name of a file."""
    return not os.path.exists(name) and (any(c in name for c in "*?[") or bool(_BRACES.search(name)))


@lru_cache(maxsize=8)
def expand(pattern: str) -> tuple[str, ...]:
    """Return the names that a pattern stands for, and (pattern,) if it is none.

    Braces stand for all their choices, whether or not they exist; wildcards for existing files. Results are
    cached like those of `expand_shards`. Raises DataError if there are too many.
    """
    return tuple(one for part in _braces(pattern) for one in _starred(part, is_remote(pattern)))


_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def _braces(pattern: str) -> list[str]:
    """Expand braces: a-{00..02}.tar becomes a-00.tar, a-01.tar and a-02.tar."""
    match = _BRACES.search(pattern)
    if match is None or os.path.exists(pattern):
        return [pattern]
    first, last, either = match.groups()
    if either is not None:
        choices = either.split(",")
    else:
        if int(last) - int(first) >= _LARGEST_RANGE:
            raise DataError(f"{pattern} stands for more than {_LARGEST_RANGE:,} files: use * instead")
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [one for c in choices for one in _braces(pattern[: match.start()] + c + pattern[match.end() :])]


def _starred(pattern: str, remote: bool) -> list[str]:
    if not any(c in pattern for c in "*?[") or os.path.exists(pattern) or (remote and _has_query(pattern)):
        return [pattern]
    return listed(pattern) if remote else sorted(glob.glob(pattern, recursive=True))


def _has_query(url: str) -> bool:
    """Return True for the URL of a shard that is followed by a query, in which "?" is no wildcard."""
    return "?" in url and bool(kind_of_shard(url))
