"""Average precision of boxes and masks, as COCO defines it (Lin et al. 2014), by faster-coco-eval.

AP is the mean over IoU thresholds 0.5, 0.55, ..., 0.95; AP50 and AP75 are those at one threshold. Sizes are
areas in pixels: small below 32 x 32, large above 96 x 96. VOC is measured in the same way; the published VOC
figures interpolate precision at 11 points of recall rather than 101.
"""

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from siam.runs.results import Precision
from siam.transfer.annotations import DetectionDataset

Prediction = dict[str, Any]
"""One line of COCO's results: image_id, category_id, bbox [x, y, width, height], score, segmentation."""


def truth(data: DetectionDataset, unread: Iterable[int] = ()) -> dict[str, Any]:
    """The test photographs' objects in COCO's format; crowds and difficult ones are not to be counted.

    unread: ids of photographs that could not be read, and are left out.
    """
    photos = [data.test[i] for i in range(len(data.test))]
    photos = [photo for photo in photos if photo.id not in set(unread)]
    annotations = []
    for photo in photos:
        for thing in photo.things:
            left, top, right, bottom = thing.box
            row = {
                "id": thing.id, "image_id": photo.id, "category_id": data.category_ids[thing.label - 1],
                "bbox": [left, top, right - left, bottom - top], "area": thing.area,
                "iscrowd": int(thing.crowd or thing.difficult),
            }  # fmt: skip
            annotations.append(row if thing.outline is None else {**row, "segmentation": thing.outline})
    return {
        "info": {},
        "images": [
            {"id": p.id, "file_name": p.file.name, "width": p.width, "height": p.height} for p in photos
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in zip(data.category_ids, data.classes, strict=True)
        ],
    }


def average_precision(true: dict[str, Any], predictions: list[Prediction], masks: bool) -> Precision:
    """Of boxes, or of masks. Neither argument is changed."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(true, use_deepcopy=True)
        found = reference.loadRes(_plain(predictions, masks)) if predictions else COCO(_empty(true))
        evaluation = COCOeval_faster(reference, found, iouType="segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # IoU thresholds T, recalls, classes K, areas (all, small, medium, large), most detections (1, 10, 100)
    precision: NDArray[np.float64] = evaluation.eval["precision"][..., -1]
    named = {row["id"]: row["name"] for row in true["categories"]}
    per_class = {
        named[number]: _mean(precision[:, :, k, 0]) for k, number in enumerate(evaluation.params.catIds)
    }
    return Precision(
        ap=_mean(precision[..., 0]),
        ap50=_mean(precision[0, ..., 0]),
        ap75=_mean(precision[5, ..., 0]),
        small=_mean(precision[..., 1]),
        medium=_mean(precision[..., 2]),
        large=_mean(precision[..., 3]),
        per_class={name: value for name, value in per_class.items() if value is not None},
    )


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Of those that are defined: -1 stands where the test has no object."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _plain(predictions: list[Prediction], masks: bool) -> list[Prediction]:
    """Copies, of what is measured only: with masks there, sizes of boxes would be those of masks."""
    left_out = "bbox" if masks else "segmentation"
    return [{key: value for key, value in row.items() if key != left_out} for row in predictions]


def _empty(true: dict[str, Any]) -> dict[str, Any]:
    return {**true, "annotations": []}
