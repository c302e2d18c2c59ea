"""Image sources, one file each. To add a source, just add a file here.

A source is a module with
    LOOKS_LIKE                a short description, shown in the error if no source recognizes a name
    ORDER                     a number; sources are tried in ascending order
    recognizes(name) -> bool  True if the name belongs to this source; must be cheap
    open(name) -> ImageSets   list the images; raises DataError
A source of named datasets also has NAMES, the names that the error suggests.
"""

import contextlib
import itertools
import os
from pathlib import Path

from siam import plugins
from siam.data.images import ImageSets
from siam.data.patterns import expand_shards
from siam.errors import DataError, did_you_mean

_COMPRESSED = (".xz", ".gz", ".bz2", ".zst", ".tgz", ".zip")


def open_images(data: str | Path | None) -> ImageSets:
    """Open `data` (None: the demo dataset) with the first source that recognizes the name.

    Raises DataError if `data` does not exist, holds no images, or cannot be read.
    """
    name = "demo" if data is None else str(data)
    expand_shards.cache_clear()
    for source in plugins.modules(__name__):
        if source.recognizes(name):
            sets: ImageSets = source.open(name)
            return sets
    raise DataError(_not_recognized(name))


def _not_recognized(name: str) -> str:
    path, sources = Path(name), plugins.modules(__name__)
    if path.suffix in _COMPRESSED:
        return f"{name} is compressed, which rules out random access: unpack it and pass the folder"
    if os.path.exists(name):
        *kinds, last = (source.LOOKS_LIKE for source in sources)
        return f"cannot recognize {name}: give {', '.join(kinds)} or {last}"
    siblings: list[str] = []
    with contextlib.suppress(OSError, ValueError), os.scandir(path.parent) as entries:
        siblings = [entry.name for entry in itertools.islice(entries, 1000)]
    if path.name != name or path.suffix:
        return f"there is no folder or file {name}{did_you_mean(path.name, siblings)}"
    known = [known for source in sources for known in getattr(source, "NAMES", ())]
    return (
        f"there is no folder or file {name}, nor a dataset of that name ({', '.join(known)})"
        + did_you_mean(name, [*siblings, *known])
    )
