"""Where images come from: one file a source."""

import contextlib
import itertools
import os
from pathlib import Path

from siam.data.images import (
    FolderImages,
    ImageSets,
    PackedStrings,
    TarImages,
    _listed,
    _split,
    _walk,
    tar_members,
)
from siam.data.patterns import expand_shards
from siam.errors import DataError, did_you_mean

KNOWN_SETS = ("demo", "cifar10", "cifar100", "stl10")


def open_images(data: str | Path | None) -> ImageSets:
    """Find out what `data` is, and index it. Raises DataError: not there, no images, unreadable."""
    from siam.data.sources.arrays import open_arrays, open_known  # these build on what is defined here
    from siam.data.sources.parquet import open_parquet
    from siam.data.sources.shards import open_shards

    name = "demo" if data is None else str(data)
    path = Path(name)
    is_file = os.path.isfile(name)  # unlike Path's own, no error for names that cannot exist
    files = expand_shards(name)
    if name in KNOWN_SETS and not os.path.exists(name):
        sets = open_known(name)
    elif files:
        sets = (open_shards if files[0].endswith(".tar") else open_parquet)(name, files)
    elif os.path.isdir(name):
        names = PackedStrings(_walk(path))
        sets = _split(name, names, lambda part: FolderImages(name, path, names.part(part)))
    elif path.suffix == ".tar" and is_file:
        members, spans, complaint = tar_members(path)
        sets = _split(
            name,
            members,
            lambda part: TarImages(name, path, members.part(part), spans[part.start : part.stop]),
        )
        if complaint:
            sets.lost[name] = complaint
    elif path.suffix in (".npy", ".npz") and is_file:
        sets = open_arrays(name, path)
    elif path.suffix == ".txt" and is_file:
        sets = _listed(name, path)
    else:
        raise DataError(_not_there(name, path))
    return sets


def _not_there(name: str, path: Path) -> str:
    if path.suffix in (".xz", ".gz", ".bz2", ".zst", ".tgz", ".zip"):
        return f"{name} is compressed and cannot be read in any order: unpack it, and give the folder"
    known = ", ".join(KNOWN_SETS)
    if os.path.exists(name):
        return f"cannot tell what {name} is: give a folder, a .tar, .npy, .npz or .txt list, or {known}"
    siblings: list[str] = []
    with contextlib.suppress(OSError, ValueError), os.scandir(path.parent) as entries:
        siblings = [entry.name for entry in itertools.islice(entries, 1000)]
    if path.name != name or path.suffix:
        return f"there is no folder or file {name}{did_you_mean(path.name, siblings)}"
    return f"there is no folder or file {name}, nor a set of that name ({known})" + did_you_mean(
        name, [*siblings, *KNOWN_SETS]
    )
