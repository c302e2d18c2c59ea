"""What a worker makes of an image: the same crops, however little of it was decoded."""

import numpy as np
import pytest
import torch
from PIL import Image

from siam.data.sources import open_images
from siam.data.views import Unreadable, ViewBatches
from siam.settings.pretraining import ViewSettings


@pytest.fixture
def large(tmp_path):
    """Two soft photographs of 1,600 x 1,200 pixels."""
    rng = np.random.default_rng(0)
    for i in range(2):
        soft = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        soft.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.jpg", quality=95)
    return open_images(tmp_path).train


def test_crops_of_a_large_photograph_are_those_of_the_whole(large, monkeypatch):
    """Decoded smaller where both crops leave room; a crop's edges may lie half a decoded pixel off."""
    batches = ViewBatches(large, ViewSettings(size=64), count=2, seed=0)
    decoded = []
    read = large.read

    def watched(i, shrink=None):
        image = read(i, shrink)
        decoded.append(image.shape[1:])
        return image

    monkeypatch.setattr(large, "read", watched)
    for epoch in range(5):
        small, _, _ = batches[epoch, np.array([0, 1])]
        monkeypatch.setattr(batches, "_shrink", lambda *_: 1)
        whole, _, _ = batches[epoch, np.array([0, 1])]
        monkeypatch.undo()
        monkeypatch.setattr(large, "read", watched)
        difference = (small.int() - whole.int()).abs().float()
        assert difference.mean() < 1.5
        assert difference.max() < 40
    assert min(height for height, _ in decoded) < 1200 == max(height for height, _ in decoded)


def test_no_crop_has_fewer_pixels_than_its_view(large):
    batches = ViewBatches(large, ViewSettings(size=64), count=2, seed=0)
    for index in range(50):
        factor = batches._shrink(0, index, 1200, 1600)
        boxes = batches._crops(0, np.array([index])).boxes(1200, 1600)
        assert boxes[..., 2:4].min() // factor >= 64
    assert batches._shrink(0, 0, 127, 1600) == 1


def test_views_do_not_depend_on_the_batch_they_are_in(large):
    batches = ViewBatches(large, ViewSettings(size=32), count=2, seed=3)
    both, _, _ = batches[4, np.array([1, 0])]
    one, _, _ = batches[4, np.array([0])]
    assert torch.equal(both[1], one[0])


def test_of_many_broken_images_five_are_named():
    broken = Unreadable({f"{i}.jpg": "the file is empty" for i in range(5)})
    assert broken.first_few() == ", ".join(f"{i}.jpg (the file is empty)" for i in range(5))
    broken |= {"5.jpg": "is not an image", "6.jpg": "is not an image"}
    assert broken.first_few().endswith("4.jpg (the file is empty) and 2 more")
