"""Read datasets in COCO format: annotations/instances_*.json (Lin et al. 2014)."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from siam.errors import DataError, first_line
from siam.system.files import regular
from siam.transfer.annotations import (
    AnnotatedImages,
    Box,
    DetectionDataset,
    Example,
    Instance,
    Skipped,
    clip_box,
)

Rows = dict[str, list[dict[str, Any]]]
"""A parsed annotation file: lists under `images`, `annotations` and `categories`."""


def coco_files(root: Path) -> tuple[Path, Path] | None:
    """Find the latest (training, test) annotation files in `root` or a subfolder."""
    for folder in (root, *(p for p in sorted(root.glob("*")) if p.is_dir())):
        train = sorted(folder.glob("annotations/instances_train*.json"))
        kinds = (sorted(folder.glob(f"annotations/instances_{kind}*.json")) for kind in ("val", "test"))
        test = next((found for found in kinds if found), [])
        if train and test:
            return train[-1], test[-1]
    return None


def open_coco(name: str, files: tuple[Path, Path], masks: bool) -> DetectionDataset:
    """Load a COCO dataset from its (training, test) annotation files.

    masks: skip instances without a segmentation. Raises DataError if a file is not in
    COCO format, or if the two files use the same id for different categories.
    """
    skipped = Skipped()
    contents = [_read(file) for file in files]
    train_names, test_names = (_categories(rows, file) for rows, file in zip(contents, files, strict=True))
    for number in train_names.keys() & test_names.keys():
        if train_names[number] != test_names[number]:
            raise DataError(
                f"category {number} is '{test_names[number]}' in {files[1]}, but "
                f"'{train_names[number]}' in {files[0].name}: use the same category ids in both files"
            )
    ids = tuple(sorted(train_names))
    label_of = {number: i + 1 for i, number in enumerate(ids)}
    train, test = (
        _examples(rows, file, label_of, masks, skipped) for rows, file in zip(contents, files, strict=True)
    )
    learnable = (example for example in train if not all(one.iscrowd for one in example.instances))
    return DetectionDataset(
        name=name,
        layout="coco",
        years=1,
        classes=tuple(train_names[number] for number in ids),
        category_ids=ids,
        train=AnnotatedImages(f"{name} (train)", learnable),
        test=AnnotatedImages(f"{name} (test)", test),
        masks=True,
        skipped=skipped,
    )


def _read(file: Path) -> Rows:
    try:
        plain = json.loads(regular(file).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {first_line(error)}") from None
    for part in ("images", "annotations", "categories"):
        rows = plain.get(part) if isinstance(plain, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file} is not in COCO format: '{part}' must be a list of objects")
    return plain


def _categories(rows: Rows, file: Path) -> dict[int, str]:
    """Map category ids to names."""
    try:
        return {int(row["id"]): str(row["name"]) for row in rows["categories"]}
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file} is not in COCO format: every category needs an id and a name") from None


def _examples(
    rows: Rows, file: Path, label_of: dict[int, int], masks: bool, skipped: Skipped
) -> list[Example]:
    """Build an example, with its valid instances, for each image found on disk."""
    images: dict[Any, dict[str, Any]] = {}
    for row in rows["images"]:
        usable = isinstance(row.get("id"), int) and isinstance(row.get("file_name"), str)
        if usable and all(isinstance(row.get(side), int) and row[side] >= 1 for side in ("width", "height")):
            images[row["id"]] = row
        else:
            skipped.note("an image without an id, file name or size", f"{file.name}: {row.get('id')}")
    folder = _folder_of(images, file)
    instances = _instances(rows["annotations"], file, images, label_of, masks, skipped)
    found = []
    for number, row in images.items():
        path = folder / row["file_name"]
        if path.is_file():
            found.append(Example(number, path, row["width"], row["height"], tuple(instances[number])))
        else:
            skipped.note("an image that is listed but missing", f"{file.name}: {row['file_name']}")
    return found


def _instances(
    rows: list[dict[str, Any]],
    file: Path,
    images: dict[Any, dict[str, Any]],
    label_of: dict[int, int],
    masks: bool,
    skipped: Skipped,
) -> dict[Any, list[Instance]]:
    """Group the valid instances by image id."""
    instances: dict[Any, list[Instance]] = defaultdict(list)
    ids = [row.get("id") for row in rows]
    # Evaluation matches objects by id, and pycocotools treats id 0 as "no match".
    valid_ids = all(isinstance(n, int) and n > 0 for n in ids) and len(set(ids)) == len(ids)
    for at, row in enumerate(rows, start=1):
        where = f"{file.name}: annotation {row.get('id', at)}"
        image = images.get(row.get("image_id"))
        if image is None:
            skipped.note("an annotation without an image", where)
        elif row.get("category_id") not in label_of:
            skipped.note("an annotation of a category absent from the training data", where)
        else:
            number, label = row["id"] if valid_ids else at, label_of[row["category_id"]]
            instance = _instance(row, number, label, image, masks, where, skipped)
            if instance is not None:
                instances[image["id"]].append(instance)
    return instances


def _folder_of(images: dict[Any, dict[str, Any]], file: Path) -> Path:
    """Find the image folder of an annotation file, such as train2017/ or images/."""
    root, part = file.parent.parent, file.stem.removeprefix("instances_")
    folders = [root / part, root / "images" / part, root / "images", root]
    names = [row["file_name"] for row in list(images.values())[:100]]
    fits = (folder for folder in folders if any((folder / name).is_file() for name in names))
    return next(fits, folders[0])


def _instance(
    row: dict[str, Any],
    number: int,
    label: int,
    image: dict[str, Any],
    masks: bool,
    where: str,
    skipped: Skipped,
) -> Instance | None:
    box = _box(row.get("bbox"))
    if box is None or clip_box(box, image["width"], image["height"]) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    segmentation = row.get("segmentation")
    if not _is_segmentation(segmentation, image):
        if masks:
            skipped.note("an object without a segmentation", where)
            return None
        segmentation = None
    left, top, right, bottom = box
    area = row.get("area")
    area = float(area) if isinstance(area, (int, float)) else (right - left) * (bottom - top)
    crowd = bool(row.get("iscrowd", 0))
    return Instance(number, box, label, area, iscrowd=crowd, segmentation=segmentation)


def _box(bbox: Any) -> Box | None:
    """Convert a COCO bbox to (left, top, right, bottom); None if invalid."""
    try:
        x, y, width, height = (float(side) for side in bbox)
    except (TypeError, ValueError):
        return None
    return (x, y, x + width, y + height) if math.isfinite(x + y + width + height) else None


def _is_segmentation(value: Any, image: dict[str, Any]) -> bool:
    """Return True for valid polygons, or for RLE of the image's size."""
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value
        )
    if not isinstance(value, dict):
        return False
    is_rle = isinstance(value.get("counts"), (list, str))
    return is_rle and value.get("size") == [image["height"], image["width"]]
