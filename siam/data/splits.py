"""Split a dataset into training and validation images by folder names or file names."""

import re
from collections.abc import Callable, Iterable

from siam.data.images import Images, ImageSets
from siam.data.kinds import IMAGE_SUFFIXES, Reason
from siam.data.labels import align_classes
from siam.data.left_out import NAMED, LeftOut
from siam.data.packed import PackedStrings
from siam.errors import DataError

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev"), ("test", "testing", "eval")
"""Names of folders and files that hold training and validation images, respectively, in any case.

Test images serve for validation only if there are no validation images.
"""

NEITHER = "file for neither training nor validation", "files for neither training nor validation"

_ENDING = r"[-_ ]?(?:set|data|images|\d+)?"  # as in train_images, testset and val2017
_LEVELS = 3  # of folders in which to look for train/ and val/
_MOST_FOLDERS = 20  # per level
_FEWEST_CLASSES = 3  # among which train/ is a class


def split_by_folder(
    name: str, names: PackedStrings, build: Callable[[range], Images], left_out: LeftOut | None = None
) -> ImageSets:
    """Split images by their train/ and val/ folders, if both exist.

    The folders may be at the top level, or inside the only folder that has both. names:
    sorted image names. build: creates a dataset from a range of indices into `names`.
    left_out: what was found besides these images. Raises DataError if there are no
    names.
    """
    left_out = LeftOut() if left_out is None else left_out
    if not len(names):
        found = f"; found only {left_out}" if left_out else ""
        raise DataError(f"found no images in {name}: looked for {' '.join(IMAGE_SUFFIXES)}{found}")
    above, train, val = _find_split(names)
    if not train or not val:
        everything = build(range(len(names)))
        # without val/, use train/, unless it is a class folder (boat, car, train)
        is_class = (train or val)[:-1] in everything.classes and len(everything.classes) >= _FEWEST_CLASSES
        if is_class or not train:
            return ImageSets(everything, None, left_out=left_out, folders=("", "" if is_class else val))
    parts = [names.below(above + folder) for folder in (train, val) if folder]
    _leave_out_the_rest(names, parts, f"{train} and {val}" if val else train, left_out)
    learned, *others = (build(part) for part in parts)
    for measured in others:
        align_classes(learned, measured, left_out)
    return ImageSets(learned, others[0] if others else None, left_out=left_out, folders=(train, val))


def _find_split(names: PackedStrings) -> tuple[str, str, str]:
    """Return the folder that contains train/ and val/, and these two, all with "/"; "" for those missing."""
    levels, partial = [""], ("", "", "")
    for _ in range(_LEVELS):
        inside = {above: list(names.folders(above)) for above in levels}
        found = [(above, *_as_folders(train_and_val(folders))) for above, folders in inside.items()]
        complete = [one for one in found if one[1] and one[2]]
        if len(complete) == 1 and _holds_most(names, complete[0][0]):
            return complete[0]
        if len(found) == 1 and any(found[0][1:]) and not any(partial) and _holds_most(names, found[0][0]):
            partial = found[0]
        levels = [f"{above}{folder}/" for above, folders in inside.items() for folder in folders]
        if complete or not 0 < len(levels) <= _MOST_FOLDERS:
            break
    return partial


def _as_folders(names: tuple[str, str]) -> tuple[str, str]:
    train, val = (name and f"{name}/" for name in names)
    return train, val


def _holds_most(names: PackedStrings, folder: str) -> bool:
    """Return True if more than half of the images are in `folder`."""
    return not folder or 2 * len(names.below(folder)) > len(names)


def train_and_val(names: list[str]) -> tuple[str, str]:
    """Return the first of `names` for training and for validation; "" if there is none."""
    train, val, test = (_first_named(words, names) for words in (TRAIN, *VAL))
    return train, val or test


def _first_named(words: Iterable[str], names: list[str]) -> str:
    for word in words:
        pattern = re.compile(word + _ENDING, re.IGNORECASE)
        found = sorted((name for name in names if pattern.fullmatch(name)), key=len)
        if found:
            return found[0]
    return ""


def _leave_out_the_rest(names: PackedStrings, parts: list[range], folders: str, left_out: LeftOut) -> None:
    """Record the images outside `parts`, which are the images in `folders`."""
    within = sorted(parts, key=lambda part: part.start)
    starts, stops = [0, *(part.stop for part in within)], [*(part.start for part in within), len(names)]
    for start, stop in zip(starts, stops, strict=True):
        if start < stop:
            left_out.add(
                outside(folders), [names[i] for i in range(start, min(stop, start + NAMED))], stop - start
            )


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
