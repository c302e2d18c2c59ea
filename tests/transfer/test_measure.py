"""Average precision in cases with a known value, and against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest

from siam.transfer.annotations import AnnotatedImages, DetectionDataset, Example, Instance, Skipped
from siam.transfer.measure import average_precision, truth

pycocotools = pytest.importorskip("pycocotools.coco")
from pycocotools.cocoeval import COCOeval  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'

FIELDS = ("ap", "ap50", "ap75", "small", "medium", "large")


def by_pycocotools(true_file, predictions_file, kind):
    """Return AP, AP50, AP75, small, medium, large; None if there are no objects of that kind."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = pycocotools.COCO(str(true_file))
        evaluation = COCOeval(reference, reference.loadRes(str(predictions_file)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else value for value in evaluation.stats[:6]]


def annotated(things, tmp_path):
    """Return two photographs of 200 x 200, the second without objects. Categories 4 and 8."""
    photos = [
        Example(1, tmp_path / "a.jpg", 200, 200, tuple(things)),
        Example(2, tmp_path / "b.jpg", 200, 200, ()),
    ]
    none = AnnotatedImages("none", [])
    return DetectionDataset(
        "x", "voc", 1, ("cat", "dog"), (4, 8), none, AnnotatedImages("x", photos), True, Skipped()
    )


def box(left, top, right, bottom, score=0.9, image=1, category=4):
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


CAT = Instance(1, (10, 10, 60, 60), 1, 2500)
DOG = Instance(2, (100, 100, 120, 120), 2, 400)


def test_extremes(tmp_path):
    true = truth(annotated([CAT, DOG], tmp_path))
    found = average_precision(true, [box(10, 10, 60, 60), box(100, 100, 120, 120, category=8)], masks=False)
    assert (found.ap, found.ap50, found.ap75, found.small, found.medium) == (1, 1, 1, 1, 1)
    assert found.large is None
    assert found.per_class == {"cat": 1, "dog": 1}
    assert average_precision(true, [], masks=False).ap == 0
    elsewhere = average_precision(true, [box(10, 10, 60, 60, image=2)], masks=False)
    assert (elsewhere.ap, elsewhere.per_class) == (0, {"cat": 0, "dog": 0})


def test_a_box_of_known_overlap(tmp_path):
    """50 x 50 against 50 x 33: IoU 0.66, above 0.5, 0.55, 0.6 and 0.65 of the ten thresholds."""
    true = truth(annotated([CAT], tmp_path))
    found = average_precision(true, [box(10, 10, 60, 43)], masks=False)
    assert found.ap50 == 1
    assert found.ap75 == 0
    assert found.ap == pytest.approx(0.4)


def test_half_of_the_objects_found_after_a_false_positive(tmp_path):
    """Precision 1/2 up to recall 1/2: 51 of 101 points of recall at 0.5."""
    other = Instance(3, (120, 10, 170, 60), 1, 2500)
    true = truth(annotated([CAT, other], tmp_path))
    false, right = box(10, 120, 60, 170, score=0.9), box(10, 10, 60, 60, score=0.8)
    assert average_precision(true, [false, right], masks=False).ap50 == pytest.approx(0.5 * 51 / 101)


@pytest.mark.parametrize("how", ["difficult", "iscrowd"])
def test_ignored_objects_are_neither_missed_nor_false_positives(tmp_path, how):
    hard = Instance(3, (120, 10, 170, 60), 1, 2500, **{how: True})
    true = truth(annotated([CAT, hard], tmp_path))
    assert average_precision(true, [box(10, 10, 60, 60)], masks=False).ap == 1
    assert average_precision(true, [box(10, 10, 60, 60), box(120, 10, 170, 60, 1.0)], masks=False).ap == 1


def test_unreadable_photographs_are_left_out(tmp_path):
    data = annotated([CAT], tmp_path)
    assert [image["id"] for image in truth(data, unread=[1])["images"]] == [2]
    assert truth(data, unread=[1])["annotations"] == []


def test_ap_equals_that_of_pycocotools_on_random_boxes(tmp_path):
    rng = np.random.default_rng(0)
    things, predictions = [], []
    for i in range(60):
        left, top = rng.uniform(0, 150, 2)
        width, height = rng.uniform(5, 50, 2)
        label = int(rng.integers(1, 3))
        sides = (left, top, left + width, top + height)
        things.append(Instance(i + 1, sides, label, width * height, difficult=bool(rng.random() < 0.1)))
        for _ in range(int(rng.integers(0, 3))):
            moved = np.array(sides) + rng.normal(0, 3, 4)
            predictions.append(box(*moved.tolist(), score=float(rng.random()), category=(4, 8)[label - 1]))
    true = truth(annotated(things, tmp_path))
    (tmp_path / "true.json").write_text(json.dumps(true))
    (tmp_path / "found.json").write_text(json.dumps(predictions))
    expected = by_pycocotools(tmp_path / "true.json", tmp_path / "found.json", "bbox")
    found = average_precision(true, predictions, masks=False)
    assert [getattr(found, name) for name in FIELDS] == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found.ap < 0.9
