"""Two datasets of views: a fast one, and one that uses the published pipeline.

The fast one decodes an image once for all its crops. Both run in the data workers:
dataset[epoch, step, indices] returns the `Sample` for that step. Images cached on the
device are cropped in feeds.py instead.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from siam.data.augment import IMAGENET_MEAN, IMAGENET_STD
from siam.data.decode import BrokenImage, decode, scalable_size
from siam.data.geometry import Crops, draws_needed, resize
from siam.data.images import Images
from siam.data.order import Key
from siam.data.random import GEOMETRY, counter_uniform
from siam.data.unreadable import Unreadable, read_or_replace
from siam.settings.pretraining import Settings, ViewSettings


class Sample(NamedTuple):
    """One training step's views, as returned by a worker."""

    epoch: int
    step: int
    indices: NDArray[np.int64]
    """Indices of the images (B,), after replacing unreadable images."""
    views: Tensor
    """uint8 crops (B, V, 3, S, S), or normalized float views (reference pipeline)."""
    unreadable: Unreadable
    failure: str = ""
    """Why no image could be read, or "".

    Not an exception, because torch would add the worker's traceback to its message.
    """


class ViewBatches(Dataset[Any]):
    """Creates batches of uint8 crops; colors are augmented later, on the device."""

    def __init__(self, images: Images, views: ViewSettings, count: int, seed: int) -> None:
        """Create a dataset with `count` views (V) per image."""
        self.images, self.views, self.count, self.seed = images, views, count, seed

    def __getitem__(self, key: Key) -> Sample:
        epoch, _, indices = key
        size = self.views.size  # stored channels-last: fastest for both the resize and the network
        out = torch.empty(len(indices), self.count, size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
        drawn = dict(zip(indices.tolist(), self._crops(epoch, indices), strict=True))

        def cut(i: int, views: Tensor) -> None:
            crops = drawn[i] if i in drawn else self._crops(epoch, np.array([i]))
            image = self._decoded(i, crops)
            cut_crops(image, crops.boxes(*image.shape[1:])[0], views)

        return _sample(self.images, key, out, cut)

    def _crops(self, epoch: int, indices: NDArray[np.int64]) -> Crops:
        """Draw crops for the images at `indices` (B,)."""
        return draw_crops(self.seed, epoch, indices, self.views, self.count)

    def _decoded(self, i: int, crops: Crops) -> Tensor:
        """Decode image i to uint8 (3, H, W), at the smallest scale that the crops allow.

        Crops are relative to the image size, so they scale with the image.
        """
        data = self.images.encoded(i)
        if data is None:
            return self.images.read(i)
        full = scalable_size(data)
        downscale = 1 if full is None else crops.max_downscale(*full, self.views.size)
        return decode(data, downscale, smooth_chroma=False)


class ReferenceBatches(Dataset[Any]):
    """Creates batches of normalized float views with the published pipeline."""

    def __init__(self, images: Images, views: ViewSettings, count: int, seed: int) -> None:
        """Create a dataset with `count` views (V) per image."""
        self.images, self.views, self.count, self.seed = images, views, count, seed
        self.transform = reference_transform(views)

    def __getitem__(self, key: Key) -> Sample:
        from torchvision.transforms.v2.functional import to_pil_image

        epoch, _, indices = key

        def transform(i: int, views: Tensor) -> None:
            pil = to_pil_image(self.images.read(i))
            u = counter_uniform(self.seed, epoch, np.array([i]), GEOMETRY, 1)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(u[0, 0] * 2**53))
                for view in views:
                    view.copy_(self.transform(pil))

        out = torch.empty(len(indices), self.count, 3, self.views.size, self.views.size)
        return _sample(self.images, key, out, transform)


def view_batches(images: Images, settings: Settings, count: int) -> ViewBatches | ReferenceBatches:
    """Create the dataset for the configured pipeline, with `count` views per image."""
    dataset = ReferenceBatches if settings.views.pipeline == "reference" else ViewBatches
    return dataset(images, settings.views, count, settings.seed)


def _sample(images: Images, key: Key, out: Tensor, write: Callable[[int, Tensor], None]) -> Sample:
    """Call `write(i, out[slot])` for each image i of the batch, and return the sample.

    Images that cannot be read are replaced.
    """
    epoch, step, indices = key
    used, unreadable = indices.copy(), Unreadable()
    try:
        for slot, index in enumerate(indices.tolist()):
            _, used[slot] = read_or_replace(images, index, unreadable, lambda i: write(i, out[slot]))  # noqa: B023
    except BrokenImage as error:
        return Sample(epoch, step, indices, out, unreadable, error.reason)
    return Sample(epoch, step, used, out, unreadable)


def draw_crops(seed: int, epoch: int, indices: NDArray[np.int64], views: ViewSettings, count: int) -> Crops:
    """Draw `count` crops for each image in `indices` (B,); sizes are not needed yet."""
    u = counter_uniform(seed, epoch, indices, GEOMETRY, draws_needed(count))
    return Crops(u, count, views.scale, flip_p=views.flip_p)


def cut_crops(image: Tensor, boxes: NDArray[np.int64], out: Tensor) -> None:
    """Crop and resize each box of an image into `out`.

    image: uint8 (3, H, W). boxes: (V, 5), see `Crops.boxes`. out: uint8 (V, 3, S, S).
    """
    size = out.shape[-1]
    for view, (top, left, h, w, flipped) in enumerate(boxes.tolist()):
        crop = resize(image[:, top : top + h, left : left + w], size, size)
        out[view] = crop.flip(2) if flipped else crop


def reference_transform(views: ViewSettings) -> Any:
    """Build the augmentation of SimSiam's released code with torchvision transforms."""
    from torchvision import transforms as T

    kernel = 2 * int(4 * views.blur_sigma[1]) + 1
    jitter = T.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    return T.Compose(
        [
            T.RandomResizedCrop(views.size, scale=views.scale),
            T.RandomApply([jitter], p=views.jitter_p),
            T.RandomGrayscale(p=views.grayscale_p),
            T.RandomApply([T.GaussianBlur(kernel, sigma=views.blur_sigma)], p=views.blur_p),
            T.RandomSolarize(128, p=views.solarize_p),
            T.RandomHorizontalFlip(p=views.flip_p),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
