"""Compute COCO average precision (AP) of boxes and masks with faster-coco-eval.

AP is averaged over IoU thresholds 0.5, 0.55, ..., 0.95; AP50 and AP75 use a single
threshold. Objects are small below an area of 32 x 32 pixels and large above 96 x 96.
VOC datasets are evaluated the same way, with 101-point interpolation; published VOC
results use 11 points.
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
"""COCO result: image_id, category_id, bbox [x, y, w, h], score, segmentation."""


def truth(data: DetectionDataset, unread: Iterable[int] = ()) -> dict[str, Any]:
    """Convert the test set to COCO format, marking difficult instances as crowds.

    unread: ids of unreadable images, which are left out.
    """
    excluded = set(unread)
    examples = [data.test[i] for i in range(len(data.test))]
    examples = [example for example in examples if example.id not in excluded]
    annotations = []
    for example in examples:
        for one in example.instances:
            left, top, right, bottom = one.box
            row = {
                "id": one.id, "image_id": example.id, "category_id": data.category_ids[one.label - 1],
                "bbox": [left, top, right - left, bottom - top], "area": one.area,
                "iscrowd": int(one.iscrowd or one.difficult),
            }  # fmt: skip
            annotations.append(row if one.segmentation is None else {**row, "segmentation": one.segmentation})
    return {
        "info": {},
        "images": [
            {"id": e.id, "file_name": e.file.name, "width": e.width, "height": e.height} for e in examples
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in zip(data.category_ids, data.classes, strict=True)
        ],
    }


def average_precision(true: dict[str, Any], predictions: list[Prediction], masks: bool) -> Precision:
    """Compute the COCO AP of boxes, or of masks if `masks` is True.

    true: ground truth in COCO format, as returned by `truth`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(true, use_deepcopy=True)
        found = reference.loadRes(of_kind(predictions, masks)) if predictions else COCO(_empty(true))
        evaluation = COCOeval_faster(reference, found, iouType="segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (T, R, K, A, M): IoU thresholds, recalls, classes, areas (all, small, medium, large), max detections
    precision: NDArray[np.float64] = evaluation.eval["precision"][..., -1]  # (T, R, K, A), at 100 detections
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
    """Average the values other than -1 (no ground truth); None if there are none."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def of_kind(predictions: list[Prediction], masks: bool) -> list[Prediction]:
    """Return the predictions with only masks if `masks` is True, otherwise only boxes.

    If both were present, COCO evaluation would compute box areas from the masks.
    """
    other = "bbox" if masks else "segmentation"
    return [{key: value for key, value in row.items() if key != other} for row in predictions]


def _empty(true: dict[str, Any]) -> dict[str, Any]:
    return {**true, "annotations": []}
