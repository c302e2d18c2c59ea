"""Read numbers, ids and file names as annotation tools write them.

Numbers may be strings or floats ("640", 640.0), ids strings or lists of one id. A
function returns None if the meaning is not plain.
"""

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

Id = int | str

_MAX_ID = 2**53
"""Ids are compared as 64-bit integers in the evaluation, and stored as floats by some tools."""
_MAX_NUMBER = 1e7


def number(value: Any) -> float | None:
    """Return a finite number of at most 10 million."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if abs(found) <= _MAX_NUMBER else None


def whole(value: Any) -> int | None:
    """Return a whole number."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def flag(value: Any) -> bool:
    """Return True for 1, true and "1", False for anything else."""
    return number(value) == 1 or str(value).strip().lower() == "true"


def identity(value: Any) -> Id | None:
    """Return an id as a whole number, or as a string if it is not one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, str) and value.strip().isdecimal() and len(value) <= 16:
        value = int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def numbered(ids: list[Id], first: int = 0) -> dict[Id, int]:
    """Map distinct ids to whole numbers: to themselves if they are at least `first`, else to 1, 2, ..."""
    if all(isinstance(one, int) and first <= one < _MAX_ID for one in ids):
        return {one: int(one) for one in ids}
    return {one: at for at, one in enumerate(ids, start=1)}


def inside(root: Path, folder: Path, name: str) -> Path | None:
    """Return the path of `name` in `folder`; None if it is outside `root`.

    Symbolic links are not resolved: those in the user's folder are the user's own.
    """
    path = os.path.normpath(folder / name.replace("\\", "/"))
    return Path(path) if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)) else None


def find_file(path: Path, suffixes: tuple[str, ...] = ()) -> Path | None:
    """Return the file at `path`, or the one whose name differs only in case.

    suffixes: complete `path` with the first of these suffixes that gives a file. Returns
    None if there is none.
    """
    for suffix in suffixes or ("",):
        exact = f"{path}{suffix}"
        if os.path.isfile(exact):
            return Path(exact)
    entries = listed(str(path.parent))
    names = (entries.get(f"{path.name}{suffix}".lower()) for suffix in suffixes or ("",))
    return next((path.with_name(name) for name in names if name), None)


@lru_cache(maxsize=8)
def listed(folder: str) -> dict[str, str]:
    """Return the files in a folder, keyed by their names in lower case; `open_annotated` clears the cache."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name.lower(): entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return {}
