"""Split a dataset into training and validation images by folder names or file names."""

import re
from collections.abc import Callable, Iterable

from siam.data.images import Images, ImageSets
from siam.data.labels import align_classes
from siam.data.packed import PackedStrings
from siam.data.patterns import IMAGE_SUFFIXES
from siam.errors import DataError

TRAIN, VAL = ("train",), ("val", "test", "valid", "validation")
"""Names of folders and files that hold training and validation images, respectively."""


def split_by_folder(name: str, names: PackedStrings, build: Callable[[range], Images]) -> ImageSets:
    """Split images by their train/ and val/ folders, if both exist.

    The folders may be at the top level or inside a single top-level folder. names:
    sorted image names. build: creates a dataset from a range of indices into `names`.
    Raises DataError if there are no names.
    """
    if not len(names):
        raise DataError(f"found no images in {name}: looked for {' '.join(IMAGE_SUFFIXES)}")
    first, slash, _ = names[0].partition("/")
    shared = slash and names[len(names) - 1].startswith(first + slash) and first not in TRAIN
    above = first + slash if shared else ""
    train, val = (_first_below(names, above, folders) for folders in (TRAIN, VAL))
    if not train or not val:
        everything = build(range(len(names)))
        # without val/, use train/, unless it is a class folder (boat, car, train)
        if not train or everything.labels is not None:
            return ImageSets(everything, None)
        return ImageSets(build(train), None, ignored=_ignored(names, above, train))
    both = build(train), build(val)
    align_classes(name, *both)
    return ImageSets(*both, ignored=_ignored(names, above, train, val))


def _first_below(names: PackedStrings, above: str, folders: Iterable[str]) -> range:
    """Return the index range of the first of `folders` with images, or range(0)."""
    ranges = (names.below(f"{above}{folder}/") for folder in folders)
    return next((part for part in ranges if part), range(0))


def _ignored(names: PackedStrings, above: str, *parts: range) -> str:
    """Return a message that counts the images outside `parts`; "" if there are none."""
    count = len(names) - sum(map(len, parts))
    folders = (names[part.start].removeprefix(above).partition("/")[0] + "/" for part in parts)
    images = "1 image" if count == 1 else f"{count:,} images"
    return f"ignoring {images} outside {' and '.join(folders)}" if count else ""


def split_by_name(files: list[str]) -> tuple[list[str], list[str]]:
    """Split files into training and validation files by file name or parent folder.

    For example, x-train-000012.tar and train/000012.tar are training files.
    """

    def named(words: Iterable[str]) -> list[str]:
        pattern = re.compile(rf"(^|[-_./])({'|'.join(words)})([-_./]|$)")
        return [file for file in files if pattern.search("/".join(re.split(r"[/\\]", file)[-2:]))]

    return named(TRAIN), named(VAL)
