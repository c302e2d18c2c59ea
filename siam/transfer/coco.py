"""Read datasets in COCO format: annotations/instances_*.json (Lin et al. 2014), or a file next to the images.

Annotation tools differ: ids may be strings, sizes floats, masks one of five forms. What
is plain is read, the rest is counted with the reason.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siam.data.kinds import IMAGE_SUFFIXES
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
    read_size,
)
from siam.transfer.masks import plain_segmentation
from siam.transfer.values import Id, find_file, flag, identity, inside, number, numbered

_BESIDE = "labels.json", "annotation.json", "annotations.json", "_annotations.coco.json"
"""Annotation files next to the images, in train/, valid/ ..., or in their images/; the last is preferred."""

_TEST = "val", "dev", "test"
"""Starts of the names of the test split; the first that exists is used."""

Rows = dict[str, list[dict[str, Any]]]
"""A parsed annotation file: lists under `images`, `annotations` and `categories`."""


def coco_files(root: Path) -> tuple[Path, Path] | None:
    """Find the latest (training, test) annotation files in `root` or a subfolder."""
    for folder in (root, *(p for p in sorted(root.glob("*")) if p.is_dir())):
        files = _by_split(folder)
        train = [files[split] for split in sorted(files) if split.startswith("train")]
        test = next(filter(None, ([files[s] for s in sorted(files) if s.startswith(w)] for w in _TEST)), [])
        if train and test:
            return train[-1], test[-1]
    return None


def _by_split(folder: Path) -> dict[str, Path]:
    """Return the annotation files in `folder` by their splits in lower case, such as "train2017"."""
    listed = ((f.stem.lower().partition("_"), f) for f in folder.glob("annotations/*.json"))
    found = {split: file for (kind, _, split), file in listed if kind == "instances"}
    patterns = (f"{below}/{name}" for name in _BESIDE for below in ("*", "*/images"))
    beside = (file for pattern in patterns for file in folder.glob(pattern))
    return found or {file.relative_to(folder).parts[0].lower(): file for file in beside}


@dataclass(frozen=True)
class _Image:
    """A listed image that exists."""

    file: Path
    width: int
    height: int


def open_coco(name: str, files: tuple[Path, Path], masks: bool) -> DetectionDataset:
    """Load a COCO dataset from its (training, test) annotation files.

    masks: skip instances without a segmentation. Raises DataError if a file is not in
    COCO format, or if the two files use the same id for different categories.
    """
    skipped = Skipped()
    contents = [_read(file) for file in files]
    train_names, test_names = (
        _categories(rows, file, skipped) for rows, file in zip(contents, files, strict=True)
    )
    for key in train_names.keys() & test_names.keys():
        if train_names[key] != test_names[key]:
            raise DataError(
                f"category {key} is '{test_names[key]}' in {files[1]}, but "
                f"'{train_names[key]}' in {files[0].name}: use the same category ids in both files"
            )
    ids = numbered(list(train_names))
    order = sorted(ids, key=ids.__getitem__)
    label_of = {key: i + 1 for i, key in enumerate(order)}
    train, test = (
        _examples(rows, file, label_of, masks, skipped) for rows, file in zip(contents, files, strict=True)
    )
    return DetectionDataset(
        name=name,
        layout="coco",
        years=1,
        classes=tuple(train_names[key] for key in order),
        category_ids=tuple(ids[key] for key in order),
        train=AnnotatedImages(f"{name} (train)", _learnable(train, skipped)),
        test=AnnotatedImages(f"{name} (test)", test),
        masks=True,
        skipped=skipped,
    )


def _learnable(examples: list[Example], skipped: Skipped) -> Iterator[Example]:
    """Yield the examples with an object that is not a crowd."""
    for example in examples:
        if not all(one.iscrowd for one in example.instances):
            yield example
        elif example.instances:
            skipped.note("a training image with only crowds (iscrowd 1)", example.file.name)


def _read(file: Path) -> Rows:
    try:
        plain = json.loads(regular(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {first_line(error)}") from None
    for part in ("images", "annotations", "categories"):
        rows = plain.get(part) if isinstance(plain, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{file} is not in COCO format: '{part}' must be a list of objects")
    return plain


def _categories(rows: Rows, file: Path, skipped: Skipped) -> dict[Id, str]:
    """Map category ids to names."""
    found: dict[Id, str] = {}
    for at, row in enumerate(rows["categories"], start=1):
        key, name = identity(row.get("id")), row.get("name")
        if key is None or not isinstance(name, (str, int)):
            skipped.note("a category without an id or a name", f"{file.name}: category {at}")
        elif found.setdefault(key, str(name)) != str(name):
            raise DataError(f"{file}: category {key} is both '{found[key]}' and '{name}'")
    return found


def _examples(
    rows: Rows, file: Path, label_of: dict[Id, int], masks: bool, skipped: Skipped
) -> list[Example]:
    """Build an example, with its valid instances, for each image found on disk."""
    images = dict(_images(rows["images"], file, skipped))
    known = {key for key in (identity(row.get("id")) for row in rows["images"]) if key is not None}
    instances = _instances(rows["annotations"], file, images, known, label_of, masks, skipped)
    ids = numbered(list(images))
    return [
        Example(ids[key], image.file, image.width, image.height, tuple(instances[key]))
        for key, image in images.items()
    ]


def _images(rows: list[dict[str, Any]], file: Path, skipped: Skipped) -> Iterator[tuple[Id, _Image]]:
    """Yield the id of each image found on disk, and the image."""
    root, folder = _root_of(file), _folder_of(rows, file)
    seen: set[Id] = set()
    for row in rows:
        key, name = identity(row.get("id")), row.get("file_name")
        where = f"{file.name}: {name or row.get('id')}"
        if key is None or not isinstance(name, str):
            skipped.note("an image without an id or a file name", where)
            continue
        if key in seen:
            skipped.note("an image with the id of another one", where)
            continue
        seen.add(key)
        path = inside(root, folder, name)
        if path is None:
            skipped.note("an image outside the dataset's folder", where)
            continue
        found = find_file(path)
        if found is None and (found := _with_another_suffix(path)) is not None:
            skipped.note("an image whose file has another suffix than its annotation says", where)
        if found is None:
            skipped.note("an image that is listed but missing", where)
            continue
        size = read_size(row.get("width"), row.get("height"), found, where, skipped)
        if size is not None:
            yield key, _Image(found, *size)


def _with_another_suffix(path: Path) -> Path | None:
    """Return the only image file of this name with any suffix; None if there is none, or several."""
    stems = [path] if path.suffix.lower() not in IMAGE_SUFFIXES else [path, path.with_suffix("")]
    files = {find_file(stem, (suffix,)) for stem in stems for suffix in IMAGE_SUFFIXES} - {None}
    return files.pop() if len(files) == 1 else None


def _root_of(file: Path) -> Path:
    """Return the dataset's folder: the one that holds annotations/, or train/ with its annotation file."""
    return file.parents[2] if file.name in _BESIDE and file.parent.name == "images" else file.parents[1]


def _folder_of(rows: list[dict[str, Any]], file: Path) -> Path:
    """Find the image folder of an annotation file, such as train2017/ or images/."""
    root, part = _root_of(file), file.stem.removeprefix("instances_")
    folders = [root / part, root / "images" / part, root / "images", root]
    if file.name in _BESIDE:  # in FiftyOne's layout, the images are in data/
        folders = [file.parent, file.parent / "data", file.parent / "images"]
    names = [name for row in rows[:100] if isinstance(name := row.get("file_name"), str)]

    def fits(folder: Path) -> bool:
        paths = (inside(root, folder, name) for name in names)
        return any(path is not None and find_file(path) is not None for path in paths)

    return next(filter(fits, folders), folders[0])


def _instances(
    rows: list[dict[str, Any]],
    file: Path,
    images: dict[Id, _Image],
    known: set[Id],
    label_of: dict[Id, int],
    masks: bool,
    skipped: Skipped,
) -> dict[Id, list[Instance]]:
    """Group the valid instances by image id. known: ids of all images, including those that were skipped."""
    instances: dict[Id, list[Instance]] = defaultdict(list)
    # Evaluation matches objects by id, and pycocotools treats id 0 as "no match".
    keys = [identity(row.get("id")) for row in rows]
    ids = numbered([key for key in keys if key is not None], first=1)
    all_valid = len(ids) == len(rows)
    all_crowds = len(rows) > 1 and all(flag(row.get("iscrowd")) for row in rows)  # CVAT marks every mask
    for at, (key, row) in enumerate(zip(keys, rows, strict=True), start=1):
        where = f"{file.name}: annotation {row.get('id', at)}"
        image_id, category = identity(row.get("image_id")), identity(row.get("category_id"))
        if image_id is None or image_id not in known:
            skipped.note("an annotation without an image", where)
        elif image_id not in images:
            continue  # skipped with its image
        elif category is None or category not in label_of:
            skipped.note("an annotation of a category absent from the training data", where)
        else:
            own = ids[key] if all_valid and key is not None else at
            instance = _instance(row, own, label_of[category], images[image_id], masks, where, skipped)
            if instance is None:
                continue
            if all_crowds:
                skipped.note("a crowd (iscrowd 1) used as an object, because all objects are crowds", where)
            crowd = flag(row.get("iscrowd")) and not all_crowds
            instances[image_id].append(replace(instance, iscrowd=crowd))
    return instances


def _instance(
    row: dict[str, Any],
    own: int,
    label: int,
    image: _Image,
    masks: bool,
    where: str,
    skipped: Skipped,
) -> Instance | None:
    segmentation, problem = plain_segmentation(row.get("segmentation"), image.width, image.height)
    box = _box(row.get("bbox"))
    if box is None or clip_box(box, image.width, image.height) is None:
        skipped.note("a box that is empty or outside its image", where)
        return None
    if segmentation is None and masks:
        skipped.note(problem, where)
        return None
    left, top, right, bottom = box
    area = number(row.get("area"))
    area = area if area is not None and area > 0 else (right - left) * (bottom - top)
    return Instance(own, box, label, area, segmentation=segmentation)


def _box(bbox: Any) -> Box | None:
    """Convert a COCO bbox to (left, top, right, bottom); None if invalid."""
    sides = [number(side) for side in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if None in sides:
        return None
    x, y, width, height = (side for side in sides if side is not None)
    return x, y, x + width, y + height
