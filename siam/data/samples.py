"""WebDataset samples in a tar: images, labels and other files that share a key.

The key is a member's name up to the first dot after the last slash; what follows names the component, as in
0001.jpg, 0001.mask.png and 0001.cls.
"""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siam.data.label_values import Value, number_labels
from siam.data.labels import class_folders
from siam.data.packed import PackedStrings
from siam.data.photographs import OTHER, PHOTOGRAPH, rank

LARGEST_LABEL = {"cls": 1000, "json": 2**16}
"""Components that may hold a label, and the number of bytes to read at most."""

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
    set_aside: tuple[str, ...] = ()
    """Names of images that are not the photograph of their sample."""

    def take(self, chosen: NDArray[np.int64], set_aside: tuple[str, ...] = ()) -> "TarMembers":
        """Return the images with the given indices, in this order."""
        names = PackedStrings(self.names[int(i)] for i in chosen)
        labels = [self.labels[int(i)] for i in chosen]
        return TarMembers(
            names, self.spans[chosen], labels, self.complaint, self.is_webdataset, self.set_aside + set_aside
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


def one_per_sample(members: TarMembers, strict: bool = True) -> TarMembers:
    """Leave out the images of a sample that are no photographs, such as masks.

    strict: each sample is one photograph, so 0001.png is a mask if there is 0001.jpg. Otherwise, images whose
    names only happen to share their beginning, such as a.1.jpg and a.2.jpg, are kept unless they are named
    like masks.
    """
    kept: list[int] = []
    aside: list[str] = []
    components = [(*split_key(name), i) for i, name in enumerate(members.names)]
    for _, group in itertools.groupby(sorted(components), key=lambda one: one[0]):
        sample = [(rank(component), i) for _, component, i in group]
        best = min(sample)
        for kind, i in sample:
            is_aside = kind[0] == OTHER if best[0][0] != OTHER else False
            if strict and best[0][0] == PHOTOGRAPH:
                is_aside = i != best[1]
            if is_aside:
                aside.append(members.names[i])
            else:
                kept.append(i)
    if not aside:
        return members
    return members.take(np.array(sorted(kept), dtype=np.int64), tuple(aside))


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
