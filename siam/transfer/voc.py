"""The layout of Pascal VOC: a folder for each year, with JPEGImages, Annotations and ImageSets/Main.

Everingham et al. 2010. All years lie together: what any of them has for training is trained on, and what any
has for the test is tested on. Pixels count from 1 there, and a box includes its last ones.
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
    clipped,
)

_LISTS = Path("ImageSets") / "Main"
_ENDINGS = (".jpg", ".jpeg", ".JPEG", ".png")


@dataclass(frozen=True)
class _Named:
    """An object before its class has a number."""

    name: str
    box: Box
    difficult: bool


_Read = tuple[Path, int, int, list[_Named]]
"""image file, width, height, objects"""


def voc_years(root: Path) -> list[Path]:
    """The years in VOC's layout: `root` itself, folders in it, or folders one deeper (VOCdevkit/VOC2007)."""
    for pattern in ("", "*", "*/*"):
        years = [p for p in sorted(root.glob(pattern) if pattern else [root]) if (p / _LISTS).is_dir()]
        if years:
            return years
    return []


def open_voc(name: str, years: list[Path]) -> DetectionDataset:
    """Read all annotations; what cannot be used is skipped and counted. Raises DataError for no lists."""
    skipped = Skipped()
    train_lists, test_lists = _lists(name, years)
    train = list(_read_all(train_lists, skipped))
    test = list(_read_all(test_lists, skipped))
    classes = tuple(sorted({thing.name for _, _, _, things in train for thing in things}))
    place = {c: i + 1 for i, c in enumerate(classes)}
    learnable = [read for read in train if read[3]]
    count = len(learnable) + 1
    return DetectionDataset(
        name=name,
        layout="voc",
        years=len(years),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        train=AnnotatedImages(f"{name} (train)", _number(learnable, place, 1, skipped)),
        test=AnnotatedImages(f"{name} (test)", _number(test, place, count, skipped)),
        masks=False,
        skipped=skipped,
    )


_List = tuple[Path, str]
"""a year, and the name of one of its lists"""


def _lists(name: str, years: list[Path]) -> tuple[list[_List], list[_List]]:
    """trainval against test; where no year has a test, train against val."""

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
            f"{name} lacks lists to train and test on: looked in {_LISTS} for trainval.txt and test.txt, "
            "or train.txt and val.txt"
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
    """One photograph, or None with the reason noted."""
    xml = year / "Annotations" / f"{stem}.xml"
    files = (year / "JPEGImages" / (stem + ending) for ending in _ENDINGS)
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        skipped.note("an image that is listed but missing", f"{year.name}: {stem}")
        return None
    try:
        root = ElementTree.parse(xml).getroot()
    except FileNotFoundError:
        skipped.note("an image without annotation", f"{year.name}: {stem}")
        return None
    except (ElementTree.ParseError, OSError, ValueError, LookupError):  # LookupError: an unknown encoding
        skipped.note("an annotation that is not XML", xml.name)
        return None
    try:
        width, height = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        try:
            with Image.open(file) as image:
                width, height = image.size
        except (OSError, Image.DecompressionBombError):
            skipped.note("an annotation without size, for an image that cannot be read", xml.name)
            return None
        skipped.note("an annotation without size, which was taken from the image", xml.name)
    things = (_thing(element, width, height, xml.name, skipped) for element in root.iter("object"))
    return file, width, height, [thing for thing in things if thing is not None]


def _thing(
    element: ElementTree.Element, width: int, height: int, where: str, skipped: Skipped
) -> _Named | None:
    name = (element.findtext("name") or "").strip()
    try:
        sides = (float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
        left, top, right, bottom = sides
    except ValueError:
        name = ""
    if not name:
        skipped.note("an object without name or box", where)
        return None
    box = (left - 1, top - 1, right, bottom)
    if clipped(box, width, height) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    return _Named(name, box, element.findtext("difficult", "0").strip() == "1")


def _number(reads: list[_Read], place: dict[str, int], first: int, skipped: Skipped) -> Iterator[Example]:
    """Photographs with ids from `first` on, and objects with labels and ids."""
    ids = 0
    for at, (file, width, height, named) in enumerate(reads, start=first):
        things = []
        for thing in named:
            if thing.name not in place:
                skipped.note("an object whose class is never trained on", f"{file.name} ({thing.name})")
                continue
            ids += 1
            left, top, right, bottom = thing.box
            area = (right - left) * (bottom - top)
            things.append(Instance(ids, thing.box, place[thing.name], area, difficult=thing.difficult))
        yield Example(at, file, width, height, tuple(things))
