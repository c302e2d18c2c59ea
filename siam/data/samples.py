"""WebDataset samples in a tar: images, labels and other files that share a key.

The key is a member's name up to the first dot after the last slash; what follows names the component, as in
0001.jpg, 0001.mask.png and 0001.cls.
"""

import itertools
import json
from array import array
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.data.label_values import Value, number_labels
from siam.data.labels import class_folders
from siam.data.left_out import LeftOut
from siam.data.packed import PackedStrings
from siam.data.photographs import OTHER, PHOTOGRAPH, rank

LARGEST_LABEL = {"cls": 1000, "json": 2**16}
"""Components that may hold a label, and the number of bytes to read at most."""

ASIDE = "mask or other image of a sample", "masks and other images of samples"
"""The reason to leave out an image that is not the photograph of its sample."""

_JSON_KEYS = ("label", "cls", "class", "class_id", "class_name", "category")


@dataclass(frozen=True)
class TarMembers:
    """The images in a tar: names, byte offsets and sizes (N, 2), and labels (None for images without one)."""

    names: PackedStrings = field(default_factory=lambda: PackedStrings(()))
    spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    labels: list[Value] = field(default_factory=list)
    complaint: str = ""
    """Warning if the tar is corrupt, or ""."""
    is_webdataset: bool = False
    """True if another file shares its key with an image."""

    def take(self, chosen: NDArray[np.int64]) -> "TarMembers":
        """Return the images with the given indices, in this order."""
        names = PackedStrings(self.names[int(i)] for i in chosen)
        return replace(
            self, names=names, spans=self.spans[chosen], labels=[self.labels[int(i)] for i in chosen]
        )

    def in_stored_order(self) -> "TarMembers":
        """Return the images in the order in which they are stored."""
        return self.take(np.argsort(self.spans[:, 0], kind="stable"))


def split_key(name: str) -> tuple[str, str]:
    """Split a member's name into its key and its component, such as ("0001", "mask.png")."""
    folder, slash, base = name.rpartition("/")
    key, _, component = base.partition(".")
    return f"{folder}{slash}{key}", component.lower()


def label_in(component: str, data: bytes) -> Value:
    """Return the label in a .cls or .json component; None if it holds none."""
    text = data.decode("utf-8", "replace").strip()
    if component == "cls":
        return int(text) if text.removeprefix("-").isdecimal() and len(text) < 18 else text or None
    try:
        plain: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = [plain.get(key) for key in _JSON_KEYS] if isinstance(plain, dict) else []
    return next((value for value in values if type(value) in (int, str)), None)


def one_per_sample(members: TarMembers, left_out: LeftOut | None = None, strict: bool = True) -> TarMembers:
    """Leave out the images of a sample that are no photographs, such as masks.

    strict: each sample has one photograph, so 0001.png is a mask if there is 0001.jpg. Otherwise, images
    whose names only happen to begin alike, such as a.1.jpg and a.2.jpg, are kept unless they are named like
    masks. Images left out are recorded in `left_out`.
    """
    kept = array("q")
    aside: list[str] = []
    for _, group in itertools.groupby(enumerate(members.names), key=lambda one: split_key(one[1])[0]):
        sample = [(rank(split_key(name)[1]), i, name) for i, name in group]
        (best, _), first, _ = min(sample)
        for (kind, _), i, name in sample:
            is_photograph = i == first if strict and best == PHOTOGRAPH else kind != OTHER or best == OTHER
            if is_photograph:
                kept.append(i)
            else:
                aside.append(name)
    if not aside:
        return members
    if left_out is not None:
        left_out.add(ASIDE, aside)
    return members.take(np.array(kept, dtype=np.int64))


def has_same_components(names: PackedStrings) -> bool:
    """Return True if there are several keys, and each has the same two or more images, as in WebDataset."""
    found: set[tuple[str, ...]] = set()
    for _, group in itertools.groupby(names, key=lambda name: split_key(name)[0]):
        found.add(tuple(split_key(name)[1] for name in group))
        if len(found) > 1:
            return False
    components = next(iter(found), ())
    return 1 < len(components) < len(names)


def labels_of(
    names: PackedStrings, values: list[Value], class_names: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Return class names and labels: those stored with the images, or else from class folders.

    If stored numbers agree with the class folders, the folders name the classes.
    """
    by_folder = class_folders(names)
    classes, labels = number_labels(values, class_names)
    if labels is None:
        return by_folder
    if class_names or by_folder[1] is None or any(isinstance(value, str) for value in values):
        return classes, labels
    same = len(by_folder[0]) == len(classes) and np.array_equal(by_folder[1], labels)
    return by_folder if same else (classes, labels)
