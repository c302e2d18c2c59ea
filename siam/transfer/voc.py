"""Read datasets in Pascal VOC format (Everingham et al. 2010).

Each year has a folder with JPEGImages, Annotations and ImageSets/Main. The training
images of all years are combined, and so are the test images. VOC pixel coordinates
start at 1, and boxes include their last row and column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from siam.errors import DataError
from siam.transfer.annotations import (
    AnnotatedImages,
    Box,
    DetectionDataset,
    Example,
    Instance,
    Skipped,
    clip_box,
)

_LISTS = Path("ImageSets") / "Main"
_ENDINGS = (".jpg", ".jpeg", ".JPEG", ".png")


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
        lines = (year / _LISTS / f"{part}.txt").read_text(errors="replace").splitlines()
        for line in filter(None, map(str.strip, lines)):
            read = _read(year, line.split()[0], skipped)
            if read is not None:
                yield read


def _read(year: Path, stem: str, skipped: Skipped) -> _Read | None:
    """Read an image's annotation; if invalid, record the reason and return None."""
    xml = year / "Annotations" / f"{stem}.xml"
    files = (year / "JPEGImages" / (stem + ending) for ending in _ENDINGS)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        skipped.note("an image that is listed but missing", f"{year.name}: {stem}")
        return None
    try:
        root = ElementTree.parse(xml).getroot()
    except FileNotFoundError:
        skipped.note("an image without an annotation", f"{year.name}: {stem}")
        return None
    except (ElementTree.ParseError, OSError, ValueError, LookupError):  # LookupError: an unknown encoding
        skipped.note("an annotation that is not valid XML", xml.name)
        return None
    size = _size(root, file, xml.name, skipped)
    if size is None:
        return None
    width, height = size
    named = (_named(element, width, height, xml.name, skipped) for element in root.iter("object"))
    return file, width, height, [one for one in named if one is not None]


def _size(root: ElementTree.Element, file: Path, where: str, skipped: Skipped) -> tuple[int, int] | None:
    """Return (width, height) from the annotation, else from the image, else None."""
    try:
        width, height = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        width = height = 0
    if width >= 1 and height >= 1:
        return width, height
    try:
        with Image.open(file) as image:
            width, height = image.size
    except (OSError, Image.DecompressionBombError):
        skipped.note("an annotation without a size, for an image that cannot be read", where)
        return None
    skipped.note("an annotation without a size, which was read from the image", where)
    return width, height


def _named(
    element: ElementTree.Element, width: int, height: int, where: str, skipped: Skipped
) -> _Named | None:
    name = (element.findtext("name") or "").strip()
    try:
        sides = (float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = sides
    except ValueError:
        name = ""
    if not name:
        skipped.note("an object without a name or box", where)
        return None
    box = (left - 1, top - 1, right, bottom)
    if clip_box(box, width, height) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    return _Named(name, box, element.findtext("difficult", "0").strip() == "1")


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
