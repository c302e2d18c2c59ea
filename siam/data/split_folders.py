"""Find the folders that hold training images, validation images, and masks, from the names of all images."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from siam.data.packed import PackedStrings
from siam.data.photographs import OTHER, PHOTOGRAPH, UNKNOWN, rank

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev"), ("test", "testing", "eval")
"""Names of folders and files that hold training and validation images, respectively, in any case.

Test images serve for validation only if there are no validation images.
"""

_ENDING = r"[-_ ]?(?:set|data|images|\d+)?"  # as in train_images, testset and val2017
_FOLD = re.compile(r"(^|/)(fold|split|cv|k)[-_ ]?\d+/$", re.IGNORECASE)
_LEVELS = 4  # of folders in which to look, as in ILSVRC/Data/CLS-LOC/train
_MOST_FOLDERS = 100  # per level


@dataclass(frozen=True)
class Split:
    """Folders of training and validation images, each with "/"; () if there are none.

    There are several if the dataset consists of parts with a split each: bottle/train/, cable/train/.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.train or self.val)

    @property
    def is_complete(self) -> bool:
        return bool(self.train and self.val)

    def names(self) -> tuple[str, str]:
        """Return short names of both: "train/", or "*/train/" for several folders; "" for none."""
        return _short(self.train), _short(self.val)


def find_split(names: PackedStrings, masks: Sequence[str] = ()) -> Split:
    """Find the training and validation folders that together hold most of the images.

    They may be at the top, inside the only folder that has both, or inside several; of the folds of a
    cross-validation, the first is used. If there is only one of the two, it is returned alone. names: sorted.
    masks: folders to ignore, each with "/".
    """
    levels, partial = [""], Split()
    for _ in range(_LEVELS):
        inside = {above: _folders(names, above, masks) for above in levels}
        found = {above: _split_in(above, folders) for above, folders in inside.items()}
        complete = [above for above, split in found.items() if split.is_complete]
        if complete and _hold_most(names, complete, masks):
            alone = len(complete) == 1 or all(map(_FOLD.search, complete))  # the folds hold the same images
            parts = complete[:1] if alone else list(found)
            return Split(
                tuple(folder for above in parts for folder in found[above].train),
                tuple(folder for above in parts for folder in found[above].val),
            )
        if len(found) == 1 and not partial and _hold_most(names, levels, masks):
            partial = found[levels[0]]
        levels = [f"{above}{folder}/" for above, folders in inside.items() for folder in folders]
        if complete or not 0 < len(levels) <= _MOST_FOLDERS:
            break
    return partial


def mask_folders(names: PackedStrings) -> list[str]:
    """Return the folders of masks, depth maps and the like next to folders of photographs, each with "/".

    For example, SegmentationClass/ next to JPEGImages/, or train/masks/ next to train/images/. names: sorted.
    """
    masks: list[str] = []
    levels = [""]
    for _ in range(_LEVELS):
        below: list[str] = []
        for above in levels:
            kinds = {f"{above}{folder}/": rank(folder)[0] for folder in names.folders(above)}
            known = sum(kind != UNKNOWN for kind in kinds.values())
            aside = OTHER if PHOTOGRAPH in kinds.values() and 2 * known > len(kinds) else None
            masks += (folder for folder, kind in kinds.items() if kind == aside)
            below += (folder for folder, kind in kinds.items() if kind != aside)
        levels = below
        if not 0 < len(levels) <= _MOST_FOLDERS:
            break
    return masks


def without(part: range, names: PackedStrings, masks: Sequence[str]) -> list[range]:
    """Return a range of indices without those of the images in `masks`, as ranges."""
    found, start = [], part.start
    for inner in sorted((names.below(folder) for folder in masks), key=lambda inner: inner.start):
        if part.start <= inner.start < part.stop:
            found.append(range(start, inner.start))
            start = inner.stop
    return [piece for piece in (*found, range(start, part.stop)) if len(piece)]


def train_and_val(names: Iterable[str]) -> tuple[str, str]:
    """Return the first of `names` for training and for validation; "" if there is none."""
    names = list(names)
    train, val, test = (_first_named(words, names) for words in (TRAIN, *VAL))
    return train, val or test


def _folders(names: PackedStrings, above: str, masks: Sequence[str]) -> list[str]:
    return [folder for folder in names.folders(above) if f"{above}{folder}/" not in masks]


def _split_in(above: str, folders: list[str]) -> Split:
    """Return the split among the folders inside `above`."""
    train, val = (((f"{above}{folder}/",) if folder else ()) for folder in train_and_val(folders))
    return Split(train, val)


def _hold_most(names: PackedStrings, folders: list[str], masks: Sequence[str]) -> bool:
    """Return True if more than half of the images that are no masks are in `folders`."""
    everything = range(len(names))
    parts = [names.below(folder) if folder else everything for folder in folders]
    held = sum(len(piece) for part in parts for piece in without(part, names, masks))
    return 2 * held > sum(map(len, without(everything, names, masks)))


def _first_named(words: Iterable[str], names: list[str]) -> str:
    for word in words:
        pattern = re.compile(word + _ENDING, re.IGNORECASE)
        found = sorted((name for name in names if pattern.fullmatch(name)), key=len)
        if found:
            return found[0]
    return ""


def _short(folders: tuple[str, ...]) -> str:
    """Return "train/" for one folder, "*/train/" for several of the same name."""
    last = [folder[:-1].rpartition("/")[2] + "/" for folder in folders]
    return last[0] if len(last) == 1 else ", ".join(f"*/{name}" for name in sorted(set(last)))
