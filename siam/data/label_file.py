"""Labels in a table of paths and labels, such as the labels.csv of `siam explore --serve`."""

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siam.data.images import UNLABELED, Images, ImageSets
from siam.data.sources.folder import FolderImages
from siam.data.sources.listing import rows
from siam.errors import DataError, first_line
from siam.system.files import regular
from siam.system.names import stored


class Label(NamedTuple):
    """A row of labels.csv; the score is 1 and `by` is empty in tables without these columns."""

    path: str
    label: str
    score: float
    by: str


def read_labels(file: Path) -> Iterator[Label]:
    """Yield the rows that have a label. Raises DataError if the file cannot be read as a table."""
    try:
        with regular(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            header = [name.strip().lower() for name in next(csv.reader(lines), [])]
        if header[:2] == ["path", "label"]:  # of Siam's own, which may hold spaces at the ends of names
            yield from _own(file, header)
            return
        for path, label, _ in rows(file):
            if label not in ("", str(UNLABELED)):
                yield Label(path, label, 1.0, "")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or first_line(error)}") from None
    except (csv.Error, ValueError) as error:
        raise DataError(f"{file} cannot be read as a table of labels: {first_line(error)}") from None


def _own(file: Path, header: list[str]) -> Iterator[Label]:
    score, by = (header.index(name) if name in header else None for name in ("score", "by"))
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        table = csv.reader(lines)
        next(table)
        for row in table:
            if len(row) >= 2 and row[1].strip() not in ("", str(UNLABELED)):
                cells = [row[at] if at is not None and at < len(row) else "" for at in (score, by)]
                yield Label(row[0], row[1].strip(), float(cells[0] or 1), cells[1])


def relabel(sets: ImageSets, file: str | Path) -> ImageSets:
    """Replace the labels of all images by those in a table; images that are not in it become UNLABELED.

    A path in the table is the name that `siam embed` writes, or leads to the image file from the table's
    folder. Validation images without any label are dropped, so that some training images are held out
    instead. Raises DataError if no image is in the table.
    """
    file = Path(file)
    found: dict[str, str] = {}
    for label in read_labels(file):
        found[label.path] = label.label
        found.setdefault(os.path.abspath(file.parent / label.path), label.label)
    both = [sets.train] if sets.val is None else [sets.train, sets.val]
    values = [[_label_of(images, i, found) for i in range(len(images))] for images in both]
    classes = tuple(sorted({label for labels in values for label in labels if label is not None}))
    if not classes:
        raise DataError(
            f"{file} has no label for any image of {sets.train.name}: its paths are of other images"
        )
    number = {name: i for i, name in enumerate(classes)}
    for images, labels in zip(both, values, strict=True):
        images.classes = classes
        images.labels = np.array(
            [UNLABELED if one is None else number[one] for one in labels], dtype=np.int64
        )
    if sets.val is not None and not any(label is not None for label in values[1]):
        return replace(sets, val=None)
    return sets


def _label_of(images: Images, i: int, found: dict[str, str]) -> str | None:
    path = images.path(i)
    label = found.get(path, found.get(stored(path)))
    if label is None and isinstance(images, FolderImages):
        return found.get(os.path.abspath(images.root / path))
    return label
