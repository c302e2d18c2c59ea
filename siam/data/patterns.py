"""Many files under one name: patterns, folders of shards, and what is near them."""

import contextlib
import glob
import os
import re
from collections.abc import Iterable

from siam.data.remote import is_remote, listed
from siam.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SHARDS = (".tar", ".parquet")
TRAIN, VAL = ("train",), ("val", "test", "valid", "validation")
"""Names of folders and files that hold the images to learn from, and those to measure with."""


def split_by_name(places: list[str]) -> tuple[list[str], list[str]]:
    """Files that are named, or whose folder is named, for training and for validation: x-train-000012.tar."""

    def named(words: Iterable[str]) -> list[str]:
        pattern = re.compile(rf"(^|[-_./])({'|'.join(words)})([-_./]|$)")
        return [place for place in places if pattern.search("/".join(re.split(r"[/\\]", place)[-2:]))]

    return named(TRAIN), named(VAL)


def expand_shards(name: str) -> list[str]:
    """The shards or Parquet files that `name` stands for: one, a pattern, or a folder of nothing else.

    Patterns have {000..099}, {a,b}, * and ?; a URL may be any of these. Empty where it is something else.
    """
    far = is_remote(name)
    found = [one for part in _braces(name) for one in _starred(part, far)]
    if len(found) == 1 and not found[0].endswith(SHARDS):
        if not far and not os.path.isdir(name):
            return []
        inside = listed(name.rstrip("/")) if far else _shards_alone(name)
        found = [one for one in inside if one.endswith(SHARDS)]
    if len(found) == 1 and not far and found[0] == name and name.endswith(".tar"):
        return []  # a tar on its own may be sorted, and so split, by the names inside
    if len({one.endswith(".tar") for one in found}) > 1:
        raise DataError(f"{name} holds both tars and Parquet files: give a pattern for those that are meant")
    if far and not found:
        raise DataError(f"no shards (.tar) or Parquet files at {name}")
    return found


def _shards_alone(folder: str) -> list[str]:
    """The shards in a folder, sorted; none where images or folders lie beside them."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.endswith(SHARDS):
                found.append(entry.path)
            elif entry.is_dir() or entry.name.lower().endswith(IMAGE_SUFFIXES):
                return []
    return sorted(found)


def _braces(pattern: str) -> list[str]:
    """a-{00..02}.tar -> a-00.tar, a-01.tar, a-02.tar; {x,y} likewise, several times over."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None or os.path.exists(pattern):
        return [pattern]
    first, last, either = match.groups()
    if either is not None:
        choices = either.split(",")
    else:
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return [one for c in choices for one in _braces(pattern[: match.start()] + c + pattern[match.end() :])]


def _starred(pattern: str, far: bool) -> list[str]:
    if not any(c in pattern for c in "*?[") or os.path.exists(pattern):
        return [pattern]
    return listed(pattern) if far else sorted(glob.glob(pattern))
