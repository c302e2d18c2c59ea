"""The layout of COCO: annotations/instances_*.json, and a folder of images for each (Lin et al. 2014)."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

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

_MISSING = "an image that is listed but missing"


def coco_files(root: Path) -> tuple[Path, Path] | None:
    """Annotations to train and to test on: of the latest year in `root`, or in a folder in it."""
    for folder in (root, *(p for p in sorted(root.glob("*")) if p.is_dir())):
        train = sorted(folder.glob("annotations/instances_train*.json"))
        kinds = (sorted(folder.glob(f"annotations/instances_{kind}*.json")) for kind in ("val", "test"))
        test = next((found for found in kinds if found), [])
        if train and test:
            return train[-1], test[-1]
    return None


def open_coco(name: str, files: tuple[Path, Path], masks: bool) -> DetectionDataset:
    """Read all annotations; what cannot be used is skipped and counted.

    masks: whether objects need outlines. Raises DataError where a file is not in COCO's format, or the two
    give one number to different categories.
    """
    skipped = Skipped()
    contents = [_read(file) for file in files]
    named, tested = (_categories(plain, file) for plain, file in zip(contents, files, strict=True))
    for number in named.keys() & tested.keys():
        if named[number] != tested[number]:
            raise DataError(
                f"{files[1]} calls category {number} {tested[number]}, but {files[0].name} "
                f"calls it {named[number]}"
            )
    ids = tuple(sorted(named))
    place = {number: i + 1 for i, number in enumerate(ids)}
    train, test = (
        _photos(plain, file, place, masks, skipped) for plain, file in zip(contents, files, strict=True)
    )
    return DetectionDataset(
        name=name,
        layout="coco",
        years=1,
        classes=tuple(named[number] for number in ids),
        category_ids=ids,
        train=AnnotatedImages(f"{name} (train)", (p for p in train if any(not t.crowd for t in p.things))),
        test=AnnotatedImages(f"{name} (test)", test),
        masks=True,
        skipped=skipped,
    )


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        plain = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {str(error).splitlines()[0]}") from None
    for part in ("images", "annotations", "categories"):
        rows = plain.get(part) if isinstance(plain, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file} is not in COCO's format: it has no list of objects '{part}'")
    return plain


def _categories(plain: dict[str, list[dict[str, Any]]], file: Path) -> dict[int, str]:
    try:
        return {int(row["id"]): str(row["name"]) for row in plain["categories"]}
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file} is not in COCO's format: a category has no id or name") from None


def _photos(
    plain: dict[str, list[dict[str, Any]]], file: Path, place: dict[int, int], masks: bool, skipped: Skipped
) -> list[Example]:
    """Every image that is there, and its objects."""
    images: dict[Any, dict[str, Any]] = {}
    for row in plain["images"]:
        usable = isinstance(row.get("id"), int) and isinstance(row.get("file_name"), str)
        if usable and all(isinstance(row.get(side), int) and row[side] >= 1 for side in ("width", "height")):
            images[row["id"]] = row
        else:
            skipped.note("an image without id, file name or size", f"{file.name}: {row.get('id')}")
    folder = _folder_of(images, file)

    things: dict[Any, list[Instance]] = defaultdict(list)
    numbers = [row.get("id") for row in plain["annotations"]]
    # Ids identify objects when measuring, and pycocotools takes 0 for 'none'.
    own = all(isinstance(n, int) and n > 0 for n in numbers) and len(set(numbers)) == len(numbers)
    for at, row in enumerate(plain["annotations"], start=1):
        where = f"{file.name}: annotation {row.get('id', at)}"
        image = images.get(row.get("image_id"))
        if image is None:
            skipped.note("an annotation for no image", where)
        elif row.get("category_id") not in place:
            skipped.note("an annotation of no category that is trained on", where)
        else:
            number, label = row["id"] if own else at, place[row["category_id"]]
            thing = _thing(row, number, label, image, masks, where, skipped)
            if thing is not None:
                things[image["id"]].append(thing)

    found = []
    for number, row in images.items():
        path = folder / row["file_name"]
        if path.is_file():
            found.append(Example(number, path, row["width"], row["height"], tuple(things[number])))
        else:
            skipped.note(_MISSING, f"{file.name}: {row['file_name']}")
    return found


def _folder_of(images: dict[Any, dict[str, Any]], file: Path) -> Path:
    """instances_train2017.json speaks of train2017/, perhaps below images/, or of any folder that fits."""
    root, part = file.parent.parent, file.stem.removeprefix("instances_")
    folders = [root / part, root / "images" / part, root / "images", root]
    some = [row["file_name"] for row in list(images.values())[:100]]
    fits = (folder for folder in folders if any((folder / name).is_file() for name in some))
    return next(fits, folders[0])


def _thing(
    row: dict[str, Any],
    number: int,
    label: int,
    image: dict[str, Any],
    masks: bool,
    where: str,
    skipped: Skipped,
) -> Instance | None:
    box = _box(row.get("bbox"))
    if box is None or clipped(box, image["width"], image["height"]) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    outline = row.get("segmentation")
    if not _is_outline(outline, image):
        if masks:
            skipped.note("an object without an outline", where)
            return None
        outline = None
    left, top, right, bottom = box
    area = row.get("area")
    area = float(area) if isinstance(area, (int, float)) else (right - left) * (bottom - top)
    return Instance(number, box, label, area, crowd=bool(row.get("iscrowd", 0)), outline=outline)


def _box(bbox: Any) -> Box | None:
    """x, y, width, height -> left, top, right, bottom."""
    try:
        x, y, width, height = (float(side) for side in bbox)
    except (TypeError, ValueError):
        return None
    return (x, y, x + width, y + height) if math.isfinite(x + y + width + height) else None


def _is_outline(outline: Any, image: dict[str, Any]) -> bool:
    """Polygons of three corners or more, or run lengths, plain or compressed, of the image's size."""
    if isinstance(outline, list):
        return bool(outline) and all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in outline
        )
    if not isinstance(outline, dict):
        return False
    counts = outline.get("counts")
    size = outline.get("size")
    return isinstance(counts, (list, str)) and size == [image["height"], image["width"]]
