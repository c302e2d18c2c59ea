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
    to the same class. Several parents are one if they have the same class folders, as in
    amazon/images/mug and webcam/images/mug. If each class folder has a single folder
    inside, as in mug/images/, the classes are the only level of folders that differs.
    Images outside the class folders are UNLABELED.
    """
    found: dict[str, int] = {}
    folders = (name.rpartition("/")[0] for name in names)
    labels = np.fromiter((found.setdefault(f, len(found)) for f in folders), dtype=np.int64, count=len(names))
    counts = dict(zip(found, np.bincount(labels, minlength=len(found)).tolist(), strict=True))
    kinds = _classes_of(counts)
    inside = sum(count for folder, count in counts.items() if folder in kinds)
    classes = tuple(sorted(set(kinds.values())))
    if 2 * inside <= len(names) or len(classes) < 2:
        return (), None
    number = {kind: i for i, kind in enumerate(classes)}
    of_folder = [number[kinds[folder]] if folder in kinds else UNLABELED for folder in found]
    return classes, np.array(of_folder, dtype=np.int64)[labels]


def _classes_of(counts: dict[str, int]) -> dict[str, str]:
    """Return the class of each folder that is in a class folder. counts: folder -> images directly inside."""
    parents = _parents_of_classes(counts)
    if not parents:
        return _only_level_that_differs(counts)
    depth = next(iter(parents)).count("/")
    kinds: dict[str, str] = {}
    for folder in counts:
        parts = folder.split("/", depth + 1)
        if len(parts) > depth and parts[depth] and "".join(f"{part}/" for part in parts[:depth]) in parents:
            kinds[folder] = parts[depth]
    return kinds


def _parents_of_classes(counts: dict[str, int]) -> set[str]:
    """Return the folder, plus "/", whose subfolders hold the most images, and others like it; or none.

    Others have half of their subfolders in common with it. There must be fewer parents than classes, and none
    in a folder whose name is a number, as of photographs by year and month.
    """
    held: Counter[str] = Counter()
    folders: dict[str, set[str]] = {}
    for folder, count in counts.items():
        if folder:
            above, slash, last = folder.rpartition("/")
            held[above + slash] += count
            folders.setdefault(above + slash, set()).add(last)
    parents = [parent for parent in held if len(folders[parent]) > 1]
    most = max(parents, key=lambda parent: (held[parent], -len(parent)), default=None)
    if most is None:
        return set()
    alike = {
        parent
        for parent, own in folders.items()
        if parent.count("/") == most.count("/") and 2 * len(own & folders[most]) >= len(own)
    }
    classes = set().union(*(folders[parent] for parent in alike))
    by_number = any(part.isdecimal() for parent in alike for part in parent.split("/"))
    return {most} if by_number or len(alike) >= len(classes) else alike


def _only_level_that_differs(counts: dict[str, int]) -> dict[str, str]:
    """Return the class of each folder from the only level at which names differ, as in a/images, b/images.

    Folders of another depth than most images have none. Returns {} if the names differ at more levels.
    """
    depths: Counter[int] = Counter()
    for folder, count in counts.items():
        depths[folder.count("/")] += count if folder else 0
    depth = max(depths, key=lambda depth: depths[depth], default=0)
    parts = {folder: folder.split("/") for folder in counts if folder and folder.count("/") == depth}
    differing = [level for level in range(depth + 1) if len({names[level] for names in parts.values()}) > 1]
    return {folder: names[differing[0]] for folder, names in parts.items()} if len(differing) == 1 else {}


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
    If the validation images have no labels, or none of the training classes, they get
    those of the folders that are named like training classes, if there are any.
    """
    if train.labels is None or (val.labels is not None and val.classes == train.classes):
        return
    number = {c: i for i, c in enumerate(train.classes)}
    if val.labels is None or not number.keys() & set(val.classes):
        labels = labels_by_folder((val.path(i) for i in range(len(val))), number)
        if (labels != UNLABELED).any():
            val.classes, val.labels = train.classes, labels
            return
    if val.labels is None:
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
