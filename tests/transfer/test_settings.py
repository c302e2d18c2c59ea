"""The published recipes, and invalid settings."""

import pytest

from siam.errors import SettingsError
from siam.report.published import TABLE5, Triple, column
from siam.transfer.settings import COCO_1X, SMALL, VOC07, VOC0712, TransferSettings, rate_at, starting_point


def test_recipes_are_those_of_the_paper():
    """Batch 16, lr 0.02; VOC 9k and 24k steps with a tenth at 3/4 and 11/12; COCO 1x: 90k, 60k and 80k."""
    assert (VOC07.iterations, VOC0712.iterations, COCO_1X.iterations) == (9000, 24000, 90000)
    for recipe in (VOC07, VOC0712, COCO_1X):
        assert (recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (16, 0.02, 0.9, 1e-4)
        assert (recipe.test_side, recipe.max_side, recipe.rois) == (800, 1333, 512)
    assert (min(VOC07.train_sides), max(VOC07.train_sides), len(VOC07.train_sides)) == (480, 800, 11)
    assert (min(COCO_1X.train_sides), max(COCO_1X.train_sides)) == (640, 800)
    falls = [step for step in range(1, 24000) if rate_at(step, VOC0712) < 0.5 * rate_at(step - 1, VOC0712)]
    assert falls == [18000, 22000]
    falls = [step for step in range(1, 90000) if rate_at(step, COCO_1X) < 0.5 * rate_at(step - 1, COCO_1X)]
    assert falls == [60000, 80000]


def test_the_learning_rate_rises_and_falls():
    assert rate_at(0, VOC07) == pytest.approx(0.02 / 1000)
    assert rate_at(50, VOC07) == pytest.approx(0.02 * (0.001 + 0.999 / 2))
    assert [rate_at(step, VOC07) for step in (100, 6749)] == [0.02, 0.02]
    assert rate_at(6750, VOC07) == pytest.approx(0.002)
    assert rate_at(8999, VOC07) == pytest.approx(0.0002)
    assert rate_at(500, SMALL) == pytest.approx(SMALL.lr / 2)  # half the batch, half the rate
    assert rate_at(0, TransferSettings(warmup=0)) == 0.02


@pytest.mark.parametrize(
    ("recipe", "layout", "years", "images", "expected"),
    [
        (None, "voc", 1, 5011, VOC07),
        (None, "voc", 2, 16551, VOC0712),
        (None, "coco", 1, 117266, COCO_1X),
        (None, "voc", 1, 600, SMALL),
        (None, "coco", 1, 98, SMALL),
        ("voc07", "coco", 1, 98, VOC07),
    ],
)
def test_a_recipe_fits_the_data(recipe, layout, years, images, expected):
    assert starting_point(recipe, layout, years, images) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"task": "classification"}, "task must be detection or segmentation, got 'classification'"),
        ({"detector": "fpm"}, "detector must be c4 or fpn, got 'fpm'; did you mean fpn"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0"),
        ({"drops": (0.9, 0.5)}, "drops must be in ascending order, got 0.9 0.5"),
        ({"drops": (0.5, 1.0)}, "drops must be below 1, got 0.5 1"),
        ({"train_sides": ()}, "train_sides must contain at least one value, got none"),
        ({"train_sides": (64, 16)}, "train_sides must be at least 32 pixels, got 64 16"),
        ({"test_side": 16}, "test_side must be at least 32 pixels, got 16"),
        ({"candidates": (100, 0)}, "candidates must be at least 1, got 100 0"),
        ({"candidates": (100,)}, "candidates must be 2 numbers"),
        ({"anchors": (32, "64")}, "anchors must be numbers"),
        ({"timeout": "soon"}, "timeout must be a time such as 90s, 10m, 2h or 1d, got 'soon'"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        (
            {"detector": "fpn", "anchors": (32,)},
            "anchors must list five sizes for fpn, .* got 32",
        ),
        ({"workers": -2}, r"workers must be at least -1 \(automatic\), got -2"),
    ],
)
def test_impossible_settings_fail_when_built(change, complaint):
    with pytest.raises(SettingsError, match=complaint):
        TransferSettings(**change)


def test_an_unknown_recipe():
    with pytest.raises(SettingsError, match="unknown recipe 'voc7'; did you mean voc07"):
        starting_point("voc7", "voc", 1, 1)


def test_table_5_as_printed():
    assert TABLE5["scratch"][0] == Triple(ap50=35.9, ap=16.8, ap75=13.0)
    assert TABLE5["SimSiam, base"][1] == (82.0, 56.4, 62.8)
    assert TABLE5["SimSiam, optimal"][3] == (56.0, 34.4, 36.7)
    assert {len(row) for row in TABLE5.values()} == {4}
    data = [("voc", 1, False), ("voc", 2, False), ("coco", 1, False), ("coco", 1, True)]
    assert [column(*kind) for kind in data] == [0, 1, 2, 3]
