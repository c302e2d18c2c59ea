"""Derive class labels from folder names; classes are sorted alphabetically."""

import numpy as np
from numpy.typing import NDArray

from siam.data.images import Images
from siam.data.packed import PackedStrings
from siam.errors import DataError


def class_folders(names: PackedStrings) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return class names and labels (N,), or () and None if the images are not in class folders.

    Images are in class folders if every image is in a folder, there are at least two
    such folders, and all of them have the same parent, which itself holds no images.
    """
    found: dict[str, int] = {}
    folders = (name.rpartition("/")[0] for name in names)
    labels = np.fromiter((found.setdefault(f, len(found)) for f in folders), dtype=np.int64, count=len(names))
    parents = {folder.rpartition("/")[0] for folder in found}
    if len(found) < 2 or len(parents) != 1 or parents & found.keys():
        return (), None
    classes, labels = sorted_classes(found, labels)
    return tuple(folder.rpartition("/")[2] for folder in classes), labels


def sorted_classes(
    found: dict[str, int], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sort the classes in `found` (class -> label) alphabetically.

    Returns the sorted classes and the renumbered labels.
    """
    classes = tuple(sorted(found))
    number = np.empty(len(found), dtype=np.int64)
    number[[found[c] for c in classes]] = np.arange(len(found))
    return classes, number[labels]


def align_classes(name: str, train: Images, val: Images) -> None:
    """Make the labels of both datasets index the training classes.

    If either dataset has no labels, the labels of both are removed. Raises DataError if
    a validation class is missing from the training images.
    """
    if train.labels is None or val.labels is None:
        for images in (train, val):
            images.labels, images.classes = None, ()
        return
    number = {c: i for i, c in enumerate(train.classes)}
    unknown = [c for c in val.classes if c not in number]
    if unknown:
        raise DataError(
            f"{name} has no training images of validation classes {', '.join(unknown[:5])}: use the same "
            "class folders for both, or pass only the training images"
        )
    val.labels = np.array([number[c] for c in val.classes], dtype=np.int64)[val.labels]
    val.classes = train.classes
