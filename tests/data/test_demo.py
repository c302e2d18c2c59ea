"""The demo set: always the same, balanced, and hard on pixels."""

import numpy as np
import torch

from siam.data.demo import SHAPES, demo_images
from siam.evaluate.knn import knn_accuracy


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


def test_raw_pixels_do_poorly_and_colour_says_nothing():
    (images, labels, _), (queries, truth, _) = demo_images("train"), demo_images("test")

    def accuracy(describe):
        bank, q = (torch.from_numpy(describe(x / 255.0)).float() for x in (images, queries))
        return knn_accuracy(bank, torch.from_numpy(labels), q, torch.from_numpy(truth), 10, k=20)

    assert 0.1 < accuracy(lambda x: (x - x.mean((0, 1, 2))).reshape(len(x), -1)) <= 0.4
    brightest = lambda x: np.stack([x.max((1, 2)), x.min((1, 2))], axis=1).reshape(len(x), -1)  # noqa: E731
    assert accuracy(brightest) < 0.2


def test_a_shape_is_darker_than_its_ground_as_often_as_lighter():
    images, labels, classes = demo_images("train")
    discs = images[labels == classes.index("disc")].astype(float) @ [0.299, 0.587, 0.114]
    lighter = discs[:, 6:10, 6:10].mean((1, 2)) > discs[:, [0, -1]].mean((1, 2))
    assert 0.35 < lighter.mean() < 0.65
