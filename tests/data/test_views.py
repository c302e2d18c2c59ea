"""Crops, as a worker makes them: the same ones at every resolution of decoding."""

import numpy as np
import pytest
import torch
from PIL import Image

from siam.data import views as module
from siam.data.geometry import Crops
from siam.data.sources import open_images
from siam.data.unreadable import Unreadable
from siam.data.views import ViewBatches, view_batches
from siam.settings.pretraining import Settings, ViewSettings


@pytest.fixture
def large(tmp_path):
    """Two smooth photographs of 1,600 x 1,200 pixels."""
    rng = np.random.default_rng(0)
    for i in range(2):
        soft = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        soft.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.jpg", quality=95)
    return open_images(tmp_path).train


def test_crops_after_reduced_decoding_equal_those_at_full_size(large, monkeypatch):
    """Images are decoded smaller if both crops allow it; crop edges may be off by half a decoded pixel."""
    batches = ViewBatches(large, ViewSettings(size=64), count=2, seed=0)
    heights, decode = [], module.decode

    def watched(*args, **options):
        image = decode(*args, **options)
        heights.append(image.shape[1])
        return image

    monkeypatch.setattr(module, "decode", watched)
    for epoch in range(5):
        small = batches[epoch, 0, np.array([0, 1])].views
        with monkeypatch.context() as patched:
            patched.setattr(Crops, "max_downscale", lambda *_: 1)
            whole = batches[epoch, 0, np.array([0, 1])].views
        difference = (small.int() - whole.int()).abs().float()
        assert difference.mean() < 1.5
        assert difference.max() < 40
    assert min(heights) < 1200 == max(heights)


def test_the_crops_of_a_batch_are_drawn_once(photos, monkeypatch):
    """One draw for all its images, and one for each replacement from outside the batch."""
    (photos / "003.jpg").write_bytes(b"no image")
    drawn, draw = [], module.draw_crops
    monkeypatch.setattr(module, "draw_crops", lambda *args: drawn.append(args[2].tolist()) or draw(*args))
    batches = ViewBatches(open_images(photos).train, ViewSettings(size=16), count=2, seed=0)
    sample = batches[1, 5, np.array([7, 3, 9])]
    assert drawn == [[7, 3, 9], [4]]
    assert (sample.epoch, sample.step, sample.indices.tolist()) == (1, 5, [7, 4, 9])
    assert sample.unreadable == {"003.jpg": "is not an image"}
    assert torch.equal(sample.views, batches[1, 5, np.array([7, 4, 9])].views)


def test_views_do_not_depend_on_their_batch(large):
    batches = ViewBatches(large, ViewSettings(size=32), count=2, seed=3)
    both = batches[4, 0, np.array([1, 0])].views
    one = batches[4, 7, np.array([0])].views
    assert torch.equal(both[1], one[0])


@pytest.mark.parametrize("pipeline", ["fast", "reference"])
def test_a_batch_without_readable_images_gives_a_short_reason(photos, pipeline):
    """The reason is a value: an exception raised in a worker would arrive with its traceback."""
    for file in photos.iterdir():
        file.write_bytes(b"")
    settings = Settings(views=ViewSettings(size=16, pipeline=pipeline))
    sample = view_batches(open_images(photos).train, settings, 2)[0, 3, np.array([5, 6])]
    assert sample.failure == "24 images in a row, starting at 005.jpg, cannot be read (the file is empty)"
    assert (sample.epoch, sample.step) == (0, 3)


def test_of_many_broken_images_five_are_named():
    unreadable = Unreadable({f"{i}.jpg": "the file is empty" for i in range(5)})
    assert unreadable.first_few() == ", ".join(f"{i}.jpg (the file is empty)" for i in range(5))
    unreadable |= {"5.jpg": "is not an image", "6.jpg": "is not an image"}
    assert unreadable.first_few().endswith("4.jpg (the file is empty) and 2 more")
