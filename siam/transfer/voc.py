"""Read datasets in Pascal VOC format (Everingham et al. 2010).

Each year has a folder with JPEGImages, Annotations and ImageSets/Main. The training
images of all years are combined, and so are the test images. VOC pixel coordinates
start at 1, and boxes include their last row and column.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from siam.data.kinds import IMAGE_SUFFIXES
from siam.errors import DataError, first_line
from siam.transfer.annotations import (
    AnnotatedImages,
    Box,
    DetectionDataset,
    Example,
    Instance,
    Skipped,
    clip_box,
    read_size,
)
from siam.transfer.values import find_file, flag, inside, number

_LISTS = Path("ImageSets") / "Main"


@dataclass(frozen=True)
class _Named:
    """An annotated object whose class name is not yet mapped to a label."""

    name: str
    box: Box
    difficult: bool


_Read = tuple[Path, int, int, list[_Named]]
"""An annotated image as (file, width, height, objects)."""


def voc_years(root: Path) -> list[Path]:
    """Find year folders: `root`, or up to two levels below (VOCdevkit/VOC2007)."""
    for pattern in ("", "*", "*/*"):
        years = [p for p in sorted(root.glob(pattern) if pattern else [root]) if (p / _LISTS).is_dir()]
        if years:
            return years
    return []


def open_voc(name: str, years: list[Path]) -> DetectionDataset:
    """Load a VOC dataset from its year folders.

    Raises DataError if the training or test image lists are missing.
    """
    skipped = Skipped()
    train_lists, test_lists = _lists(name, years)
    train = list(_read_all(train_lists, skipped))
    test = list(_read_all(test_lists, skipped))
    classes = tuple(sorted({one.name for _, _, _, named in train for one in named}))
    label_of = {name: i + 1 for i, name in enumerate(classes)}
    learnable = [read for read in train if read[3]]
    first_test = len(learnable) + 1
    return DetectionDataset(
        name=name,
        layout="voc",
        years=len(years),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        train=AnnotatedImages(f"{name} (train)", _examples(learnable, label_of, 1, skipped)),
        test=AnnotatedImages(f"{name} (test)", _examples(test, label_of, first_test, skipped)),
        masks=False,
        skipped=skipped,
    )


_List = tuple[Path, str]
"""An image list: (year folder, name), such as (VOC2007, trainval)."""


def _lists(name: str, years: list[Path]) -> tuple[list[_List], list[_List]]:
    """Find (training, test) lists: trainval and test, otherwise train and val."""

    def lists(year: Path, *parts: str) -> list[_List]:
        return [(year, part) for part in parts if (year / _LISTS / f"{part}.txt").is_file()]

    test = [found for year in years for found in lists(year, "test")]
    if test:
        train = [found for y in years for found in lists(y, "trainval") or lists(y, "train", "val")]
    else:
        train = [found for year in years for found in lists(year, "train")]
        test = [found for year in years for found in lists(year, "val")]
    if not train or not test:
        raise DataError(
            f"{name} has no training and test image lists: expected trainval.txt and test.txt, or "
            f"train.txt and val.txt, in {_LISTS}"
        )
    return train, test


def _read_all(lists: list[_List], skipped: Skipped) -> Iterator[_Read]:
    for year, part in lists:
        file = year / _LISTS / f"{part}.txt"
        try:
            lines = file.read_text("utf-8-sig", "surrogateescape").splitlines()
        except OSError as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}") from None
        for line in filter(None, map(str.strip, lines)):
            read = _read(year, line, skipped)
            if read is not None:
                yield read


def _read(year: Path, line: str, skipped: Skipped) -> _Read | None:
    """Read an image's annotation; if invalid, record the reason and return None."""
    file = _find(year, "JPEGImages", line, IMAGE_SUFFIXES)
    xml = _find(year, "Annotations", line, (".xml",))
    where = f"{year.name}: {line}"
    if file is None:
        left = inside(year, year / "JPEGImages", line) is None
        reason = "an image outside the dataset's folder" if left else "an image that is listed but missing"
        skipped.note(reason, where)
        return None
    if xml is None:
        skipped.note("an image without an annotation", where)
        return None
    try:
        root = ElementTree.parse(xml).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError):  # LookupError: an unknown encoding
        skipped.note("an annotation that is not valid XML", xml.name)
        return None
    size = read_size(root.findtext("size/width"), root.findtext("size/height"), file, xml.name, skipped)
    if size is None:
        return None
    width, height = size
    named = (_named(element, width, height, xml.name, skipped) for element in root.iter("object"))
    return file, width, height, [one for one in named if one is not None]


def _find(year: Path, folder: str, line: str, suffixes: tuple[str, ...]) -> Path | None:
    """Find the file that a line of an image list names, in a folder of the year.

    Names may contain spaces, end in a suffix, or be followed by 1, 0 or -1, as in the lists of a class.
    """
    unflagged = re.sub(r"\s+-?[01]$", "", line)
    for name in dict.fromkeys((line, unflagged)):
        stem = name[: name.rindex(".")] if name.lower().endswith(IMAGE_SUFFIXES) else name
        for candidate in dict.fromkeys((name, stem)):
            path = inside(year, year / folder, candidate)
            found = None if path is None else find_file(path, suffixes)
            if found is not None:
                return found
    return None


def _named(
    element: ElementTree.Element, width: int, height: int, where: str, skipped: Skipped
) -> _Named | None:
    name = (element.findtext("name") or "").strip()
    sides = [number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = (side or 0.0 for side in sides)
    if not name or None in sides:
        skipped.note("an object without a name or box", where)
        return None
    box = (left - 1, top - 1, right, bottom)
    if clip_box(box, width, height) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    return _Named(name, box, flag(element.findtext("difficult")))


def _examples(
    reads: list[_Read], label_of: dict[str, int], first: int, skipped: Skipped
) -> Iterator[Example]:
    """Yield examples with ids starting at `first`, skipping objects whose class is not in `label_of`."""
    ids = 0
    for at, (file, width, height, named) in enumerate(reads, start=first):
        instances = []
        for one in named:
            if one.name not in label_of:
                skipped.note(
                    "an object of a class absent from the training data", f"{file.name} ({one.name})"
                )
                continue
            ids += 1
            left, top, right, bottom = one.box
            area = (right - left) * (bottom - top)
            instances.append(Instance(ids, one.box, label_of[one.name], area, difficult=one.difficult))
        yield Example(at, file, width, height, tuple(instances))
