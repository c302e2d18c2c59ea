"""Split a dataset into training and validation images by folder names or file names."""

import itertools
import re
from collections.abc import Callable, Sequence

from siam.data.images import Images, ImageSets
from siam.data.kinds import IMAGE_SUFFIXES, Reason
from siam.data.labels import align_classes
from siam.data.left_out import NAMED, LeftOut
from siam.data.packed import PackedStrings
from siam.data.split_folders import TRAIN, VAL, find_split, mask_folders, without
from siam.errors import DataError

NEITHER = "file for neither training nor validation", "files for neither training nor validation"
MASKS = "image in a folder of masks or annotations", "images in folders of masks or annotations"

_FEWEST_CLASSES = 3  # among which train/ is a class

Part = Sequence[range]
"""A part of a dataset: ranges of indices into its images."""


def split_by_folder(
    name: str, names: PackedStrings, build: Callable[[Part], Images], left_out: LeftOut | None = None
) -> ImageSets:
    """Split images by their train/ and val/ folders, if both exist; leave out folders of masks.

    The folders may be at the top level, inside the only folder that has both, or inside several. names:
    sorted image names. build: creates a dataset from a part of `names`. left_out: what was found besides
    these images. Raises DataError if there are no names.
    """
    left_out = LeftOut() if left_out is None else left_out
    if not len(names):
        found = f"; found only {left_out}" if left_out else ""
        raise DataError(f"found no images in {name}: looked for {' '.join(IMAGE_SUFFIXES)}{found}")
    masks = mask_folders(names)
    split = find_split(names, masks)
    for part in map(names.below, masks):
        _leave_out(MASKS, part, names, left_out)
    train, val = split.names()
    if not split.is_complete:
        everything = build(without(range(len(names)), names, masks))
        # without val/, use train/, unless it is a class folder (boat, car, train)
        is_class = (train or val)[:-1] in everything.classes and len(everything.classes) >= _FEWEST_CLASSES
        if is_class or not train:
            return ImageSets(everything, None, left_out=left_out, folders=("", "" if is_class else val))
    parts = [[names.below(folder) for folder in folders] for folders in (split.train, split.val) if folders]
    used = [*itertools.chain(*parts), *map(names.below, masks)]
    _leave_out_the_rest(names, used, f"{train} and {val}" if val else train, left_out)
    learned, *others = (
        build([piece for part in several for piece in without(part, names, masks)]) for several in parts
    )
    for measured in others:
        align_classes(learned, measured, left_out)
    return ImageSets(learned, others[0] if others else None, left_out=left_out, folders=(train, val))


def _leave_out(why: Reason, part: range, names: PackedStrings, left_out: LeftOut) -> None:
    """Record the images in a range."""
    if len(part):
        left_out.add(why, [names[i] for i in part[:NAMED]], len(part))


def _leave_out_the_rest(names: PackedStrings, parts: list[range], folders: str, left_out: LeftOut) -> None:
    """Record the images outside `parts`, which are the images in `folders`."""
    stop = 0
    for part in sorted(parts, key=lambda part: part.start):
        _leave_out(outside(folders), range(stop, part.start), names, left_out)
        stop = max(stop, part.stop)
    _leave_out(outside(folders), range(stop, len(names)), names, left_out)


def outside(splits: str) -> Reason:
    """Return the reason for leaving out images in neither of the splits."""
    return f"image outside {splits}", f"images outside {splits}"


def split_by_name(files: list[str]) -> tuple[list[str], list[str]]:
    """Split files into training and validation files by file name or parent folder.

    For example, x-train-000012.tar and train/000012.tar are training files. Test files
    are validation files only if there are no others.
    """
    paths = [re.split(r"[/\\]", file)[-2:] for file in files]
    several = len({path[0] for path in paths if len(path) > 1}) > 1  # the only folder does not tell
    found: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for file, path in zip(files, paths, strict=True):
        numbers = map(_split_of, path if several else path[-1:])
        found.setdefault(next((n for n in numbers if n is not None), -1), []).append(file)
    return found[0], found[1] or found[2]


def _split_of(name: str) -> int | None:
    """Return 0 for a name with a word of TRAIN, 1 and 2 for those of VAL, None for others."""
    for number, words in enumerate((TRAIN, *VAL)):
        if re.search(rf"(^|[-_.])({'|'.join(words)})\d*([-_.]|$)", name, re.IGNORECASE):
            return number
    return None


def files_outside(files: list[str], train: list[str], val: list[str]) -> LeftOut:
    """Return an account of the files for neither training nor validation; empty without training files."""
    left_out = LeftOut()
    rest = sorted(set(files) - {*train, *val}) if train else []
    if rest:
        left_out.add(NEITHER, [re.split(r"[/\\]", file)[-1] for file in rest])
    return left_out
