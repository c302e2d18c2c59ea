"""Views of one image: decode once, cut every crop from it; and the published pipeline, to compare."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from siam.data.decode import BrokenImage
from siam.data.geometry import Crops, draws_needed, resize
from siam.data.images import Images
from siam.data.order import Key
from siam.data.photometry import IMAGENET_MEAN, IMAGENET_STD
from siam.data.random import counter_uniform
from siam.settings.pretraining import ViewSettings

GEOMETRY, COLOR, STEP = 0, 1, 2
"""Purposes of random draws: they never share numbers."""

_REPLACEMENTS = 100  # neighbours that are tried in place of a broken image


class Unreadable(dict[str, str]):
    """Images that could not be read: path to reason."""

    def first_few(self) -> str:
        """Up to 5 of them with their reasons, and how many more there are."""
        named = [f"{path} ({reason})" for path, reason in itertools.islice(self.items(), 5)]
        return ", ".join(named) + (f" and {len(self) - 5} more" if len(self) > 5 else "")


class ViewBatches(Dataset[Any]):
    """dataset[epoch, indices] -> (views, indices actually used, broken). Runs in the workers.

    views: uint8 (B, V, 3, S, S) crops, or with the reference pipeline float views, normalised. A broken
    image is replaced by the next one in the set that can be read, and reported.
    """

    def __init__(self, images: Images, views: ViewSettings, count: int, seed: int) -> None:
        self.images, self.views, self.count, self.seed = images, views, count, seed
        self.reference = reference_transform(views) if views.pipeline == "reference" else None

    def __getitem__(self, key: Key) -> tuple[Tensor, NDArray[np.int64], Unreadable]:
        epoch, indices = key
        size, used, broken = self.views.size, indices.copy(), Unreadable()
        if self.reference is not None:
            out = torch.empty(len(indices), self.count, 3, size, size)
        else:  # stored with channels last: the resize is fastest so, and so is the network
            out = torch.empty(len(indices), self.count, size, size, 3, dtype=torch.uint8).permute(
                0, 1, 4, 2, 3
            )
        crops = self._crops(epoch, indices)
        for slot, index in enumerate(indices):
            shrink = None if self.reference is not None else partial(self._shrink, epoch)
            image, used[slot] = read_or_replace(self.images, int(index), broken, shrink)
            if self.reference is not None:
                self._reference_views(image, epoch, int(used[slot]), out[slot])
            else:
                _, height, width = image.shape
                its = crops if used[slot] == index else self._crops(epoch, used)
                cut_crops(image, its.boxes(height, width, slice(slot, slot + 1))[0], out[slot])
        return out, used, broken

    def _crops(self, epoch: int, indices: NDArray[np.int64]) -> Crops:
        """Of images (B,), whatever their sizes: decoded at half the size, half the box at half the place."""
        u = counter_uniform(self.seed, epoch, indices, GEOMETRY, draws_needed(self.count))
        return Crops(u, self.count, self.views.scale, flip_p=self.views.flip_p)

    def _shrink(self, epoch: int, index: int, height: int, width: int) -> int:
        """How many times smaller the image may be for every crop to have as many pixels as its view."""
        if min(height, width) < 2 * self.views.size:
            return 1  # as most images are: no need to know the crops
        boxes = self._crops(epoch, np.array([index])).boxes(height, width)
        return int(boxes[..., 2:4].min()) // self.views.size

    def _reference_views(self, image: Tensor, epoch: int, index: int, out: Tensor) -> None:
        from torchvision.transforms.v2.functional import to_pil_image

        pil = to_pil_image(image)
        u = counter_uniform(self.seed, epoch, np.array([index]), GEOMETRY, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(u[0, 0] * 2**53))
            for view in range(self.count):
                assert self.reference is not None
                out[view] = self.reference(pil)


def read_or_replace(
    images: Images, index: int, broken: Unreadable, shrink: Callable[[int, int, int], int] | None = None
) -> tuple[Tensor, int]:
    """Image `index`, or the first readable one after it, and which it was; adds to `broken` what broke.

    shrink: of index, height and width, see `decode`.
    """
    at, most = index, min(_REPLACEMENTS, len(images))
    for _ in range(most):
        try:
            return images.read(at, None if shrink is None else partial(shrink, at)), at
        except BrokenImage as error:
            broken[images.path(at)] = error.reason
            at = (at + 1 if error.until is None else error.until) % len(images)
    first = images.path(index)
    raise BrokenImage(f"{most} images in a row, from {first} on, cannot be read ({broken[first]})")


def cut_crops(image: Tensor, boxes: NDArray[np.int64], out: Tensor) -> None:
    """Resize each box of `image`, uint8 (3, H, W), straight into its place in `out`, uint8 (V, 3, S, S)."""
    size = out.shape[-1]
    for view, (top, left, h, w, flipped) in enumerate(boxes.tolist()):
        crop = resize(image[:, top : top + h, left : left + w], size, size)
        out[view] = crop.flip(2) if flipped else crop


def reference_transform(views: ViewSettings) -> Any:
    """The released SimSiam recipe, Pillow and torchvision transforms one by one, with these settings."""
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
