"""The demo set: deterministic, balanced, hard for raw pixels, and learned by a small network."""

import json

import numpy as np
import pytest
import torch

from siam.data.augment import RGB_TO_YIQ
from siam.data.sources.demo import SHAPES, demo_images
from siam.measure.knn import knn_accuracy
from tests.conftest import run_cli


def test_the_same_every_time_and_balanced():
    images, labels, classes = demo_images("test")
    again, labels_again, _ = demo_images("test")
    assert np.array_equal(images, again)
    assert np.array_equal(labels, labels_again)
    assert images.shape == (1000, 16, 16, 3)
    assert images.dtype == np.uint8
    assert classes == tuple(SHAPES)
    assert np.bincount(labels).tolist() == [100] * 10


def test_no_test_image_is_a_training_image():
    train, test = ({image.tobytes() for image in demo_images(split)[0]} for split in ("train", "test"))
    assert (len(train), len(test)) == (5000, 1000)
    assert not train & test


def test_raw_pixels_classify_poorly_and_color_is_uninformative():
    (images, labels, _), (queries, truth, _) = demo_images("train"), demo_images("test")

    def accuracy(describe):
        bank, q = (torch.from_numpy(describe(x / 255.0)).float() for x in (images, queries))
        return knn_accuracy(bank, torch.from_numpy(labels), q, torch.from_numpy(truth), 10, k=20)

    assert 0.1 < accuracy(lambda x: (x - x.mean((0, 1, 2))).reshape(len(x), -1)) <= 0.4
    brightest = lambda x: np.stack([x.max((1, 2)), x.min((1, 2))], axis=1).reshape(len(x), -1)  # noqa: E731
    assert accuracy(brightest) < 0.2


def test_hue_is_the_only_cue_that_all_crops_of_an_image_share():
    images, _, _ = demo_images("train")
    yiq = images.reshape(5000, -1, 3) / 255 @ RGB_TO_YIQ.numpy().T
    light, dark = np.quantile(yiq[..., 0], [0.9, 0.1], axis=1)
    chroma = yiq[..., 1:].mean(axis=1)  # noise averages out
    assert dark.std() < 0.03
    assert light.std() < 0.03
    assert np.linalg.norm(chroma, axis=1).std() < 0.01
    hues, _ = np.histogram(np.arctan2(chroma[:, 1], chroma[:, 0]), bins=10, range=(-np.pi, np.pi))
    assert hues.min() > 400  # of 500


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it takes minutes on a free core, and other tests share it
def test_a_network_learns_it_in_minutes(tmp_path):
    """Healthy, with kNN far above raw pixels and the untrained network."""
    done = run_cli("pretrain", "--out", tmp_path / "run", "--json", check=0)
    outcome = json.loads(done.stdout)
    assert outcome["verdict"] == "healthy"
    assert outcome["knn"] >= 0.7
    assert outcome["knn"] >= 1.7 * max(outcome["pixel_knn"], outcome["untrained_knn"])
    assert outcome["pixel_knn"] <= 0.4
