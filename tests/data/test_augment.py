"""Color and blur against torchvision's functional operations, one by one and as a distribution."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from siam.data.augment import DRAWS, Augment, blur, denormalize, normalize
from siam.data.random import counter_uniform
from siam.settings.pretraining import ViewSettings

NOTHING = ViewSettings(
    size=16,
    jitter_p=1.0,
    brightness=0,
    contrast=0,
    saturation=0,
    hue=0,
    grayscale_p=0,
    blur_p=0,
    solarize_p=0,
)


@pytest.fixture
def images():
    """Soft colors away from 0 and 255, where no operation clamps."""
    rng = np.random.default_rng(0)
    low = torch.from_numpy(rng.uniform(80, 160, (6, 3, 4, 4))).float()
    return torch.nn.functional.interpolate(low, size=16, mode="bilinear").round().byte()


def apply(views, images, u=None):
    """Return views in [0, 1] and the random numbers that determined them."""
    u = counter_uniform(0, 0, np.arange(len(images)), 1, DRAWS) if u is None else u
    return denormalize(Augment(views, torch.device("cpu"))(images, u)), u


@pytest.mark.parametrize(
    ("name", "column", "reference"),
    [
        ("brightness", 4, TF.adjust_brightness),
        ("contrast", 5, TF.adjust_contrast),
        ("saturation", 6, TF.adjust_saturation),
    ],
)
def test_one_adjustment_equals_torchvision(images, name, column, reference):
    ours, u = apply(replace(NOTHING, **{name: 0.4}), images)
    for i, image in enumerate(images):
        factor = 1 + (2 * u[i, column] - 1) * 0.4
        assert abs(ours[i] * 255 - reference(image, factor).float()).max() <= 2


def test_grayscale_equals_torchvision(images):
    ours, _ = apply(replace(NOTHING, grayscale_p=1.0), images)
    expected = TF.rgb_to_grayscale(images, num_output_channels=3).float()
    assert abs(ours * 255 - expected).max() <= 2  # torchvision truncates


def test_solarize_equals_torchvision(images):
    ours, _ = apply(replace(NOTHING, solarize_p=1.0), images)
    assert abs(ours * 255 - TF.solarize(images, 128).float()).max() < 1e-3


def test_hue_rotation_agrees_with_torchvision_within_the_yiq_approximation(images):
    """A rotation in YIQ preserves luma, in HSV value: hues agree, levels differ by up to about 20 here."""
    ours, u = apply(replace(NOTHING, hue=0.1), images)
    for i, image in enumerate(images):
        expected = TF.adjust_hue(image, float((2 * u[i, 7] - 1) * 0.1)).float()
        assert abs(ours[i] * 255 - expected).mean() <= 8


def test_hue_keeps_luma_and_gray(images):
    augment = Augment(replace(NOTHING, hue=0.5), torch.device("cpu"))
    u = torch.rand(50, DRAWS, generator=torch.Generator().manual_seed(0))
    matrix, offset = augment.color_maps(torch.zeros(50), u)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(luma @ matrix, luma.expand(50, 3), atol=1e-4)
    assert torch.allclose(matrix @ torch.ones(3), torch.ones(50, 3), atol=1e-4)
    assert offset.abs().max() == 0


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_equals_torchvision(sigma):
    x = torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    side = 2 * int(4 * sigma) + 1
    expected = TF.gaussian_blur(x, [side, side], [sigma, sigma])
    assert abs(blur(x, torch.full((2,), sigma), max_sigma=2.0) - expected).max() < 1e-5


def test_the_composition_equals_torchvisions_in_any_order(images):
    """Brightness, contrast and saturation commute where nothing clamps: levels within 4 (three roundings)."""
    ours, u = apply(replace(NOTHING, brightness=0.3, contrast=0.3, saturation=0.3), images)
    kinds = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation]
    for i, image in enumerate(images):
        factors = [1 + (2 * u[i, column] - 1) * 0.3 for column in (4, 5, 6)]
        for order in permutations(range(3)):
            expected = image
            for kind in order:
                expected = kinds[kind](expected, factors[kind])
            assert abs(ours[i] * 255 - expected.float()).max() <= 4


def test_a_view_depends_only_on_its_own_random_numbers(images):
    whole, u = apply(ViewSettings(size=16), images)
    alone, _ = apply(ViewSettings(size=16), images[2:3], u[2:3])
    assert torch.allclose(whole[2:3], alone, atol=1e-6)


def test_denormalize_inverts_normalize():
    x = torch.rand(2, 3, 5, 5)
    assert torch.allclose(denormalize(normalize(x)), x, atol=1e-6)
    assert normalize(x).is_contiguous(memory_format=torch.channels_last)
