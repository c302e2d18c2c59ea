"""Read sets of images as the verbs do, and the small images that they are made of."""

import io

import numpy as np
import torch
from PIL import Image

from siam.data.decode import BrokenImage
from siam.data.images import Images, ImageSets


def small_images() -> tuple[bytes, bytes]:
    """Return a JPEG and a PNG of some hundred bytes."""
    soft = np.random.default_rng(0).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    image = Image.fromarray(soft).resize((12, 10))
    found = []
    for kind in ("JPEG", "PNG"):
        data = io.BytesIO()
        image.save(data, kind)
        found.append(data.getvalue())
    return found[0], found[1]


def read_some(sets: ImageSets) -> None:
    """Read names, labels, size and the first images of a set, and check that they fit together."""
    for images in (sets.train, sets.val):
        if images is not None:
            _read_some(images)


def _read_some(images: Images) -> None:
    count = len(images)
    assert count >= 1, "an empty set"
    if images.labels is not None:
        assert len(images.labels) == count, "labels of another number than images"
        assert int(images.labels.max()) < len(images.classes), "a label without a class"
    assert images.groups is None or images.groups[-1] == count, "groups do not end with the images"
    height, width = images.size_hint
    assert height > 0, "no height"
    assert width > 0, "no width"
    for i in range(min(count, 8)):
        images.path(i).encode("utf-8", "surrogateescape")
        try:
            image = images.read(i)
        except BrokenImage:
            continue
        assert image.dtype == torch.uint8, f"another type: {image.dtype}"
        assert image.shape[0] == 3, "not three channels"
        assert torch.equal(image, images.read(i)), "not the same twice"
