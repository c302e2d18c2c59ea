"""View retrieval against its definition, and the pairs of views that it is measured on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siam.data.sources import open_images
from siam.data.subset import spaced
from siam.measure.pairs import retrieval, view_pairs
from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings

SETTINGS = Settings(batch_size=8, views=ViewSettings(size=16), loader=LoaderSettings(workers=0))


def plainly(views):
    """Look up every view among the other views of all images, one at a time."""
    hits = 0
    for first, second in ((views[:, 0], views[:, 1]), (views[:, 1], views[:, 0])):
        for i, query in enumerate(first):
            cosines = [query @ other / np.linalg.norm(query) / np.linalg.norm(other) for other in second]
            hits += int(np.argmax(cosines) == i)
    return hits / (2 * len(views))


@given(st.integers(2, 30), st.integers(2, 8), st.floats(0.01, 3), st.integers(0, 99))
def test_retrieval_is_the_share_of_views_whose_nearest_is_their_other(n, dimension, noise, seed):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, 1, dimension))
    views = images + noise * rng.normal(size=(n, 2, dimension))
    assert retrieval(torch.from_numpy(views)) == pytest.approx(plainly(views))


def test_retrieval_at_its_extremes():
    images = torch.eye(10)
    assert retrieval(images[:, None].expand(-1, 2, -1)) == 1.0
    unrelated = torch.stack([images, images.roll(1, dims=0)], dim=1)
    assert retrieval(unrelated) == 0.0


def test_pairs_are_training_views_in_whole_batches(photos):
    """The same ones each time: 24 images make three batches of 8, and 10 make one."""
    images = open_images(photos).train
    pairs = view_pairs(images, SETTINGS)
    assert pairs.shape == (24, 2, 3, 16, 16)
    assert pairs.dtype == torch.uint8
    assert torch.equal(pairs, view_pairs(images, SETTINGS))
    assert not torch.equal(pairs[:, 0], pairs[:, 1])
    assert len(view_pairs(spaced(images, 10), SETTINGS)) == 8
    assert view_pairs(spaced(images, 1), SETTINGS).shape == (0, 2, 3, 16, 16)


def test_pairs_without_augmentation_are_the_images(photos):
    """Whole images without colors changed: both views are the image, or its mirror image."""
    plain = ViewSettings(size=16, scale=(1, 1), jitter_p=0, grayscale_p=0, blur_p=0, flip_p=0)
    settings = Settings(batch_size=8, views=plain, loader=LoaderSettings(workers=0))
    pairs = view_pairs(open_images(photos).train, settings).float()
    assert (pairs[:, 0] - pairs[:, 1]).abs().mean() < 10  # crops still differ in their aspect ratio
    assert retrieval(pairs.flatten(2)) > 0.9
