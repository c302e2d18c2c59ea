"""Derive class labels from folder names; classes are sorted alphabetically."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from siam.data.images import UNLABELED, Images
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings

UNKNOWN = "validation class without training images", "validation classes without training images"


def class_folders(names: PackedStrings) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return class names and labels (N,), or () and None if the images are not in class folders.

    The class folders are the two or more folders with the same parent that together hold
    the most images, and more than half of all images. Images in their subfolders belong
    to the same class. Images outside the class folders are UNLABELED.
    """
    found: dict[str, int] = {}
    folders = (name.rpartition("/")[0] for name in names)
    labels = np.fromiter((found.setdefault(f, len(found)) for f in folders), dtype=np.int64, count=len(names))
    counts = dict(zip(found, np.bincount(labels, minlength=len(found)).tolist(), strict=True))
    parent = _parent_of_classes(counts)
    if parent is None:
        return (), None
    below = [folder[len(parent) :].partition("/")[0] if folder.startswith(parent) else "" for folder in found]
    classes = tuple(sorted(set(below) - {""}))
    inside = sum(count for kind, count in zip(below, counts.values(), strict=True) if kind)
    if 2 * inside <= len(names):
        return (), None
    number = {"": UNLABELED, **{kind: i for i, kind in enumerate(classes)}}
    return classes, np.array([number[kind] for kind in below], dtype=np.int64)[labels]


def _parent_of_classes(counts: dict[str, int]) -> str | None:
    """Return the parent, plus "/", of the two or more folders that hold the most images, or None.

    counts: folder -> number of images directly inside.
    """
    held: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for folder, count in counts.items():
        if folder:
            above, slash, _ = folder.rpartition("/")
            held[above + slash] += count
            folders[above + slash] += 1
    parents = [parent for parent in held if folders[parent] > 1]
    return max(parents, key=lambda parent: (held[parent], -len(parent)), default=None)


def sorted_classes(
    found: dict[str, int], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sort the classes in `found` (class -> label) alphabetically.

    Returns the sorted classes and the renumbered labels; UNLABELED remains.
    """
    classes = tuple(sorted(found))
    number = np.full(len(found) + 1, UNLABELED)
    number[[found[c] for c in classes]] = np.arange(len(found))
    return classes, number[labels]  # number[-1] is UNLABELED


def align_classes(train: Images, val: Images, left_out: LeftOut) -> None:
    """Make the validation labels index the training classes, if the training images are labeled.

    Validation images of other classes become UNLABELED; these classes are recorded in
    `left_out`.
    If the validation images have no labels, they get those of the folders that are
    named like training classes.
    """
    if train.labels is None or (val.labels is not None and val.classes == train.classes):
        return
    number = {c: i for i, c in enumerate(train.classes)}
    if val.labels is None:
        labels = labels_by_folder((val.path(i) for i in range(len(val))), number)
        if (labels != UNLABELED).any():
            val.classes, val.labels = train.classes, labels
        return
    unknown = [c for i, c in enumerate(val.classes) if c not in number and (val.labels == i).any()]
    if unknown:
        left_out.add(UNKNOWN, unknown)
    renumbered = np.array([*(number.get(c, UNLABELED) for c in val.classes), UNLABELED], dtype=np.int64)
    val.labels, val.classes = renumbered[val.labels], train.classes


def labels_by_folder(paths: Iterable[str], classes: dict[str, int]) -> NDArray[np.int64]:
    """Return the class of the first folder in each path that is named like one, (N,).

    classes: class -> label. Other images are UNLABELED.
    """
    found = ([classes[part] for part in path.split("/")[:-1] if part in classes] for path in paths)
    return np.fromiter((kinds[0] if kinds else UNLABELED for kinds in found), dtype=np.int64)
