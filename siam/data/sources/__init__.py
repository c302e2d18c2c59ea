"""Image sources, one module each. To add a source, add a module to this package.

A source defines
    LOOKS_LIKE                a short description, listed if no source recognizes a name
    ORDER                     a number; sources are tried in ascending order
    recognizes(name) -> bool  True if the name belongs to this source; must be cheap
    open(name) -> ImageSets   list the images; raises DataError
A source of named datasets also defines NAMES, listed if a name is not found.
"""

import contextlib
import itertools
import os
from pathlib import Path

from siam import plugins
from siam.data.images import ImageSets
from siam.data.patterns import expand, expand_shards, is_pattern
from siam.errors import DataError, did_you_mean

_COMPRESSED = (".xz", ".gz", ".bz2", ".zst", ".tgz", ".zip")


def open_images(data: str | Path | None) -> ImageSets:
    """Open `data` (None: the demo dataset) with the first source that recognizes the name.

    Raises DataError if `data` does not exist, holds no images, or cannot be read.
    """
    if not (data is None or isinstance(data, str | Path)):
        raise DataError(
            f"DATA must be a name or a path, got {type(data).__name__}: write the paths to a .txt list, one "
            "per line (siam.embed and siam.inspect also take lists, PIL images and arrays)"
        )
    name = "demo" if data is None else str(data)
    if name.startswith("~") and not os.path.exists(name):
        name = os.path.expanduser(name)
    expand_shards.cache_clear()
    expand.cache_clear()
    for source in plugins.modules(__name__):
        if source.recognizes(name):
            sets: ImageSets = source.open(name)
            return sets
    raise DataError(_not_recognized(name))


def _not_recognized(name: str) -> str:
    path, sources = Path(name), plugins.modules(__name__)
    if path.suffix in _COMPRESSED:
        return f"{name} is compressed and cannot be read in place: unpack it and pass the folder"
    if os.path.exists(name):
        *kinds, last = (source.LOOKS_LIKE for source in sources)
        return f"{name} is not a supported dataset: use {', '.join(kinds)} or {last}"
    if is_pattern(name):
        found = [one for one in expand(name) if os.path.exists(one)]
        if found:
            return f"{name} matches {len(found):,} files, but no images or shards, only {found[0]}"
        return f"no files match {name}"
    siblings: list[str] = []
    with contextlib.suppress(OSError, ValueError), os.scandir(path.parent) as entries:
        siblings = [entry.name for entry in itertools.islice(entries, 1000)]
    if path.name != name or path.suffix:
        return f"no such file or folder: {name}{did_you_mean(path.name, siblings)}"
    known = [known for source in sources for known in getattr(source, "NAMES", ())]
    return (
        f"no such file, folder or dataset: {name} (datasets: {', '.join(known)})"
        f"{did_you_mean(name, [*siblings, *known])}"
    )
