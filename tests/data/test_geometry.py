"""Crops: boxes are distributed as in torchvision, and matrix products equal its antialiased resize."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from siam.data.geometry import Crops, crop_resize, draws_needed, resize_matrix
from siam.data.random import counter_uniform


def boxes_of(n, height, width, **options):
    u = counter_uniform(0, 0, np.arange(n), 0, draws_needed(2))
    return Crops(u, 2, options.pop("scale", (0.2, 1.0)), **options).boxes(height, width)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1.0))
def test_boxes_lie_within_the_image(height, width, low):
    top, left, h, w, flipped = np.moveaxis(boxes_of(20, height, width, scale=(low, 1.0)), -1, 0)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    assert set(np.unique(flipped)) <= {0, 1}


def test_boxes_are_distributed_as_in_torchvision():
    """Means and quantiles of height, width, top and left agree with 20,000 draws of RandomResizedCrop."""
    height, width, n = 120, 200, 10_000
    ours = boxes_of(n, height, width).reshape(-1, 5)[:, :4]
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(2 * n)])
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    difference = np.quantile(ours, quantiles, axis=0) - np.quantile(theirs, quantiles, axis=0)
    assert abs(difference).max() <= 3  # pixels of up to 200: about three standard errors
    assert abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 1


def test_the_crops_of_an_image_do_not_depend_on_its_batch():
    u = counter_uniform(0, 0, np.arange(5), 0, draws_needed(2))
    crops = Crops(u, 2, (0.2, 1.0))
    each = list(crops)
    assert len(each) == 5
    assert (each[3].boxes(70, 50) == crops.boxes(70, 50)[3:4]).all()
    assert (each[3].boxes(70, 50) == Crops(u[3:4], 2, (0.2, 1.0)).boxes(70, 50)).all()


def test_reduced_decoding_leaves_every_crop_as_many_pixels_as_its_view():
    u = counter_uniform(0, 0, np.arange(50), 0, draws_needed(2))
    factors = [crops.max_downscale(1200, 1600, 64) for crops in Crops(u, 2, (0.2, 1.0))]
    boxes = Crops(u, 2, (0.2, 1.0)).boxes(1200, 1600)[..., 2:4].min(axis=(1, 2))
    assert (boxes // factors >= 64).all()
    assert (boxes // (np.array(factors) + 1) < 64).all()
    tiny = Crops(u, 2, (0.001, 0.002))
    assert tiny.max_downscale(200, 200, 64) == 1
    assert Crops(u, 2, (0.2, 1.0)).max_downscale(127, 1600, 64) == 1


def test_half_of_the_views_are_flipped():
    assert abs(boxes_of(5000, 50, 50)[..., 4].mean() - 0.5) < 0.03
    assert boxes_of(500, 50, 50, flip_p=0.0)[..., 4].sum() == 0


def test_the_two_views_of_an_image_differ():
    boxes = boxes_of(100, 64, 64)
    assert (boxes[:, 0] != boxes[:, 1]).any(axis=-1).mean() > 0.95


def test_an_extreme_shape_falls_back_to_its_center():
    boxes = boxes_of(10, 400, 4, scale=(0.9, 1.0))
    assert (boxes[..., :4] == [(400 - 5) // 2, 0, 5, 4]).all(axis=-1).mean() > 0.9


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 40), st.integers(0, 10**6))
def test_crop_resize_equals_torchvision(height, width, size, seed):
    """Within one level of torchvision's antialiased uint8 resize, which rounds in fixed point."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, height, width), dtype=np.uint8))
    boxes = boxes_of(3, height, width)
    ours = crop_resize(images, torch.from_numpy(boxes), size).unflatten(0, (3, 2))
    for i in range(3):
        for view, (top, left, h, w, flipped) in enumerate(boxes[i].tolist()):
            expected = TF.resized_crop(images[i], top, left, h, w, [size, size], antialias=True)
            expected = expected.flip(-1) if flipped else expected
            assert (ours[i, view] - expected.float()).abs().max() <= 1


@pytest.mark.parametrize(("start", "length"), [(0, 16), (3, 5), (2, 13)])
def test_resize_matrix_rows_sum_to_one_and_stay_inside(start, length):
    no = torch.zeros(1)
    m = resize_matrix(torch.tensor([start]), torch.tensor([length]), no, source=16, size=8)[0]
    assert torch.allclose(m.sum(dim=1), torch.ones(8))
    assert m[:, :start].abs().sum() == 0
    assert m[:, start + length :].abs().sum() == 0
