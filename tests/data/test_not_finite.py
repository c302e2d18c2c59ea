"""NaN and infinity in pixels, labels and boxes never reach a network."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from siam.data.decode import decode
from siam.data.sources import open_images
from siam.errors import DataError
from siam.transfer.data import open_annotated
from tests.fuzz.reading import small_images
from tests.transfer.test_data import coco_json, make_coco, make_voc, xml

NOT_FINITE = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_pixels_that_are_no_numbers(value, tmp_path):
    """A float TIFF is black there, and otherwise as without them; arrays of floats are refused."""
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    values[1, 2] = value
    data = io.BytesIO()
    Image.fromarray(values).save(data, "TIFF")
    expected = np.rint(np.nan_to_num(values, posinf=0, neginf=0) * 255).astype(np.uint8)
    image = decode(data.getvalue())
    assert image.dtype == torch.uint8
    assert np.array_equal(image.numpy(), np.stack([expected] * 3))

    np.save(tmp_path / "images.npy", np.full((2, 8, 8, 3), value, dtype=np.float32))
    with pytest.raises(DataError, match=r"images must be uint8 .* got float32"):
        open_images(tmp_path / "images.npy")


def test_an_image_of_nothing_but_nan_is_black():
    data = io.BytesIO()
    Image.fromarray(np.full((3, 4), np.nan, dtype=np.float32)).save(data, "TIFF")
    assert decode(data.getvalue()).count_nonzero() == 0


@pytest.mark.parametrize("value", NOT_FINITE)
def test_labels_that_are_no_numbers(value, tmp_path):
    """NaN is no label; infinities cost the labels of an array, and one label in a table."""
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, value]))
    sets = open_images(tmp_path / "set.npz")
    if np.isnan(value):  # no label
        assert sets.train.labels.tolist() == [0, 1, -1]
    else:
        assert sets.train.labels is None

    columns = {"image": pa.array([small_images()[0]] * 3), "label": pa.array([0.0, 1.0, value])}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    train = open_images(tmp_path / "set.parquet").train
    assert len(train) == 3
    assert train.labels.tolist() == [0, 1, -1]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_boxes_that_are_no_numbers_are_counted(value, tmp_path):
    good = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 10, 12], "iscrowd": 0, "area": 120}
    rows = [good, {**good, "id": 2, "bbox": [1, 2, value, 12]}]
    coco = open_annotated(make_coco(tmp_path / "coco", coco_json(rows)), masks=False)
    assert [one.box for one in coco.train[0].instances] == [(1, 2, 11, 14)]
    assert sum(count for count, _ in coco.skipped.values()) == 2  # in the training and in the test file

    objects = [("cat", 0, (1, 2, 10, 12)), ("cat", 0, (1, value, 10, 12))]
    lists = {"train": {"a": xml(objects)}, "val": {"b": xml(objects)}}
    voc = open_annotated(make_voc(tmp_path / "voc", lists), masks=False)
    assert [one.box for one in voc.train[0].instances] == [(0, 1, 10, 12)]
    assert sum(count for count, _ in voc.skipped.values()) == 2
