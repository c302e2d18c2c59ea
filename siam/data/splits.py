"""Split a set into training and validation images by the names of folders or files."""

import re
from collections.abc import Callable, Iterable

from siam.data.images import Images, ImageSets
from siam.data.labels import align_classes
from siam.data.packed import PackedStrings
from siam.data.patterns import IMAGE_SUFFIXES
from siam.errors import DataError

TRAIN, VAL = ("train",), ("val", "test", "valid", "validation")
"""Names of folders and files that hold the images to train on, and those to validate with."""


def split_by_folder(name: str, names: PackedStrings, build: Callable[[range], Images]) -> ImageSets:
    """Split at train/ and val/ if the sorted names have both, either at the top or in one common folder.

    build: makes the set of a range of the names. Raises DataError without any names.
    """
    if not len(names):
        raise DataError(f"no images in {name}: looked for {' '.join(IMAGE_SUFFIXES)}")
    first, slash, _ = names[0].partition("/")
    shared = slash and names[len(names) - 1].startswith(first + slash) and first not in TRAIN
    above = first + slash if shared else ""
    train, val = (_first_below(names, above, folders) for folders in (TRAIN, VAL))
    if not train or not val:
        everything = build(range(len(names)))
        # train/ alone holds the images, unless it is one among class folders: cars, planes, trains
        if not train or everything.labels is not None:
            return ImageSets(everything, None)
        return ImageSets(build(train), None, ignored=_ignored(names, above, train))
    both = build(train), build(val)
    align_classes(name, *both)
    return ImageSets(*both, ignored=_ignored(names, above, train, val))


def _first_below(names: PackedStrings, above: str, folders: Iterable[str]) -> range:
    """Return the range of the images in the first of `folders` that has any."""
    ranges = (names.below(f"{above}{folder}/") for folder in folders)
    return next((part for part in ranges if part), range(0))


def _ignored(names: PackedStrings, above: str, *parts: range) -> str:
    """Say how many images are outside the folders of these parts; "" where there are none."""
    count = len(names) - sum(map(len, parts))
    folders = (names[part.start].removeprefix(above).partition("/")[0] + "/" for part in parts)
    images = "1 image is" if count == 1 else f"{count:,} images are"
    return f"{images} ignored, outside {' and '.join(folders)}" if count else ""


def split_by_name(places: list[str]) -> tuple[list[str], list[str]]:
    """Return the files for training and those for validation, by their own or their folder's name.

    x-train-000012.tar and train/000012.tar are for training.
    """

    def named(words: Iterable[str]) -> list[str]:
        pattern = re.compile(rf"(^|[-_./])({'|'.join(words)})([-_./]|$)")
        return [place for place in places if pattern.search("/".join(re.split(r"[/\\]", place)[-2:]))]

    return named(TRAIN), named(VAL)
