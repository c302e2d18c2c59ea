"""Center views and features: which pixels, which images, and in which mode."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from siam.data.sources import open_images
from siam.data.sources.arrays import ArrayImages
from siam.measure.features import center_view, center_views, extract


def test_an_image_of_the_views_size_is_unchanged():
    image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    assert torch.equal(center_view(image, 96), image)


def test_a_photograph_is_resized_to_256_and_cut_at_224():
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    expected = TF.center_crop(TF.resize(image, [256], antialias=True), [224, 224])
    assert torch.equal(center_view(image, 224), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_come_in_order_without_broken_ones(photos, workers):
    (photos / "005.jpg").write_bytes(b"")
    images = open_images(photos).train
    views, indices = zip(*center_views(images, 16, batch_size=7, workers=workers), strict=True)
    assert np.concatenate(indices).tolist() == [i for i in range(24) if i != 5]
    assert torch.cat(views).shape == (23, 3, 16, 16)


def test_extract_uses_eval_mode_and_restores_the_mode():
    images = ArrayImages("x", np.zeros((5, 8, 8, 3), dtype=np.uint8), None, ())
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(192)).train()
    features, indices = extract(encoder, center_views(images, 8), torch.device("cpu"))
    assert features.shape == (5, 192)
    assert indices.tolist() == list(range(5))
    assert encoder.training
    assert encoder[1].num_batches_tracked == 0
