"""A list of image paths, relative to the file: text, one path per line, or a table (CSV, TSV, JSON lines).

In text, a path may be followed by a tab and a label. A table has a header with a column
of paths and, optionally, of labels and of splits; or no header, and paths in the first
column and labels in the second. Each line of JSON is an object with such fields. Without
a label, or with label -1, an image is unlabeled.
"""

import csv
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siam.data.images import UNLABELED, ImageSets
from siam.data.kinds import is_image
from siam.data.labels import align_classes, sorted_classes
from siam.data.left_out import NAMED, LeftOut
from siam.data.packed import PackedStrings
from siam.data.sources.folder import FolderImages
from siam.data.split_folders import train_and_val
from siam.data.splits import outside
from siam.errors import DataError, first_line
from siam.system.files import regular

LOOKS_LIKE = "a .txt, .csv or .jsonl list of paths"
ORDER = 60

PATHS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file",
    "image_name", "img", "img_path",
)  # fmt: skip
LABELS = ("label", "class", "class_name", "label_name", "category", "target", "cls", "labels")
SPLITS = ("split", "subset", "partition", "set")
"""Names of a table's columns, in any case."""

_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")

_Row = tuple[str, str, str]
"""Path, label and split; "" if missing."""


def recognizes(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and os.path.isfile(name)


def open(name: str) -> ImageSets:
    file = Path(name)
    found: dict[str, int] = {}
    split_numbers: dict[str, int] = {}
    labels, splits = array("q"), array("q")

    def paths() -> Iterator[str]:
        for path, label, split in rows(file):
            if ".." in path and ".." in Path(path).parts:
                raise DataError(f"{name}: {path} is outside the list's folder; use an absolute path")
            labels.append(UNLABELED if label in ("", "-1") else found.setdefault(label, len(found)))
            splits.append(split_numbers.setdefault(split, len(split_numbers)))
            yield path

    try:
        names = PackedStrings(paths())
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from None
    except csv.Error as error:
        raise DataError(f"{name} cannot be read as a table: {first_line(error)}") from None
    if not len(names):
        raise DataError(f"found no images in {name}: the list is empty")
    classes, numbers = sorted_classes(found, np.array(labels, dtype=np.int64))

    def build(chosen: NDArray[np.bool_]) -> FolderImages:
        kept = names if chosen.all() else PackedStrings(names[int(i)] for i in np.flatnonzero(chosen))
        images = FolderImages(name, file.parent, kept)
        images.classes, images.labels = (classes, numbers[chosen]) if classes else ((), None)
        return images

    train, val = train_and_val(list(split_numbers))
    if not train or not val:
        return ImageSets(build(np.ones(len(names), dtype=bool)), None)
    split = np.array(splits)
    in_train, in_val = (split == split_numbers[one] for one in (train, val))
    left_out = LeftOut()
    rest = np.flatnonzero(~(in_train | in_val))
    if len(rest):
        left_out.add(outside(f"{train} and {val}"), [names[int(i)] for i in rest[:NAMED]], len(rest))
    sets = build(in_train), build(in_val)
    align_classes(*sets, left_out)
    return ImageSets(*sets, left_out=left_out, folders=(train, val))


def rows(file: Path) -> Iterator[_Row]:
    """Yield the path, label and split of each line."""
    with regular(file).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        if file.suffix.lower() == ".txt":
            for line in lines:
                path, _, label = line.rstrip("\n").partition("\t")
                if path.strip():
                    yield path, label, ""
            return
        if file.suffix.lower() == ".jsonl":
            yield from _objects(file, lines)
            return
        header = lines.readline()
        lines.seek(0)
        delimiter = "\t" if file.suffix.lower() == ".tsv" else ";" if ";" in header else ","
        columns: list[int | None] = []
        for row in csv.reader(lines, delimiter=delimiter):
            if not columns:
                columns = _columns(file, row)
                if not is_image(row[0].rpartition("/")[2]):
                    continue
            cells = ["" if at is None or at >= len(row) else row[at].strip() for at in columns]
            if cells[0]:
                yield cells[0], cells[1], cells[2]


def _objects(file: Path, lines: Iterable[str]) -> Iterator[_Row]:
    """Yield the path, label and split of each line of JSON. Raises DataError."""
    columns: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            plain = json.loads(line)
            fields = {str(key): value for key, value in plain.items()}
        except (ValueError, AttributeError, RecursionError):
            raise DataError(f"{file} cannot be read: line {number} is not a JSON object") from None
        if columns is None:
            names = list(fields)
            columns = ["" if at is None else names[at] for at in _columns(file, names)]
        path, label, split = (fields.get(column) for column in columns)
        if isinstance(path, str) and path:
            yield path, "" if label is None else str(label), "" if split is None else str(split)


def _columns(file: Path, first: list[str]) -> list[int | None]:
    """Return the numbers of the columns of paths, labels and splits, from the table's first row."""
    if first and is_image(first[0].rpartition("/")[2]):  # no header
        return [0, 1, 2]
    names = [cell.strip().lower() for cell in first]
    path, *rest = (
        next((names.index(known) for known in kinds if known in names), None)
        for kinds in (PATHS, LABELS, SPLITS)
    )
    if path is None:
        raise DataError(
            f"{file} has no column of image paths, only {', '.join(first) or 'an empty line'}: name it 'path'"
        )
    return [path, *rest]
