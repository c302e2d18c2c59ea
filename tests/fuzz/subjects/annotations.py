"""COCO and VOC annotations: usable objects are read, with boxes and masks that fit; others are counted."""

import json
from pathlib import Path

from siam.data.decode import BrokenImage
from siam.transfer.data import open_annotated, with_target
from tests.fuzz.cases import Case, write
from tests.fuzz.mutate import TEXT, json_value, word
from tests.fuzz.reading import small_images

SPECIAL = {".json": (json_value, json_value, json_value, word), ".xml": TEXT, ".txt": TEXT}


def seeds() -> dict[str, Case]:
    return {"coco": _coco(), "rle": _coco(rle=True), "voc": _voc()}


def _coco(rle: bool = False) -> Case:
    jpg, _ = small_images()
    size = [10, 12]
    segmentation = (
        {"counts": [13, 4, 6, 4, 93], "size": size} if rle else [[1.0, 1.0, 6.0, 1.0, 6.0, 7.0, 1.0, 7.0]]
    )
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 12, "height": 10} for n in (1, 2)]
    annotations = [
        {
            "id": n + 1, "image_id": 1 + n % 2, "category_id": 1 + n % 2, "bbox": [1.0, 1, 5, 6.5],
            "area": 30.0, "iscrowd": 0, "segmentation": segmentation,
        }
        for n in range(4)
    ]  # fmt: skip
    categories = [{"id": n, "name": name, "supercategory": "animal"} for n, name in ((1, "cat"), (2, "dog"))]
    plain = json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()
    photos = {f"fixed/{part}/{n}.jpg": jpg for part in ("train", "val") for n in (1, 2)}
    return {"annotations/instances_train.json": plain, "annotations/instances_val.json": plain, **photos}


_XML = b"""<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <filename>a.jpg</filename>
  <size><width>12</width><height>10</height><depth>3</depth></size>
  <object><name>cat</name><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>7</xmax><ymax>9</ymax></bndbox></object>
  <object><name>dog</name><part><name>head</name></part>
    <bndbox><xmin>3</xmin><ymin>2</ymin><xmax>11</xmax><ymax>8</ymax></bndbox></object>
</annotation>
"""


def _voc() -> Case:
    jpg, _ = small_images()
    names = "abcd"
    return {
        **{f"Annotations/{n}.xml": _XML for n in names},
        **{f"fixed/JPEGImages/{n}.jpg": jpg for n in names},
        "ImageSets/Main/train.txt": b"a\nb\n",
        "ImageSets/Main/val.txt": b"c\nd 1\n",
    }


def check(case: Case, folder: Path) -> None:
    write({name.removeprefix("fixed/"): data for name, data in case.items()}, folder)
    masks = any(name.endswith(".json") for name in case)
    found = open_annotated(folder, masks)
    assert all(found.classes), "a class without a name"
    for images in (found.train, found.test):
        for i in range(len(images)):
            example = images[i]
            inside = example.file.resolve().is_relative_to(folder.resolve())
            assert inside, f"a file outside the folder: {example.file}"
            try:
                image = images.read(i)
            except BrokenImage:
                continue
            _, target = with_target(image, example, flip=bool(i % 2), masks=masks and bool(example.instances))
            boxes = target["boxes"]
            assert bool(((boxes[:, 2:] - boxes[:, :2]) > 0).all()), "an empty box"
            assert bool((target["labels"] >= 1).all()), "a label below 1"
            if "masks" in target:
                assert target["masks"].shape[1:] == image.shape[1:], "a mask of another size"
