"""Images of one size in an array: .npy, .npz, and the sets that torchvision knows."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.decode import Shrink
from siam.data.images import ImageSets, align_classes
from siam.data.sources.demo import demo_images
from siam.errors import DataError, first_line


class ArrayImages:
    """Images of one size in an array: uint8 (N, H, W, 3). split: a folder to put before their names.

    file: the .npy that `images` is a map of.
    """

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        classes: Iterable[str],
        split: str = "",
        file: Path | None = None,
    ) -> None:
        self.name, self.images, self.labels, self.classes = name, images, labels, tuple(classes)
        self.file = file
        self.prefix = f"{split}/" if split else ""

    def __len__(self) -> int:
        return len(self.images)

    def path(self, i: int) -> str:
        folder = f"{self.classes[self.labels[i]]}/" if self.labels is not None else ""
        return f"{self.prefix}{folder}{i:06d}"

    def read(self, i: int, shrink: Shrink | None = None) -> Tensor:
        return torch.from_numpy(np.array(self.images[i], order="C")).permute(2, 0, 1)

    def __getstate__(self) -> dict[str, Any]:
        """Pixels that lie in a file stay there: a worker maps them again."""
        return {k: v for k, v in self.__dict__.items() if k != "images" or self.file is None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.images = _rgb(_map(self.file))


def open_arrays(name: str, path: Path) -> ImageSets:
    """A .npy of images, or a .npz with `images`, perhaps `labels`, `val_images`, `val_labels`."""
    try:
        if path.suffix == ".npy":
            arrays = {"images": _map(path)}
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
                arrays = dict(loaded)
    except Exception as error:  # damaged bytes lead numpy and zipfile to errors of many kinds
        raise DataError(f"{name} cannot be read: {first_line(error)}") from None
    if "images" not in arrays:
        raise DataError(f"{name} has no array 'images', only {', '.join(sorted(arrays)) or 'nothing'}")
    if "val_images" not in arrays:
        mapped = path if path.suffix == ".npy" else None
        return ImageSets(_array_set(name, arrays["images"], arrays.get("labels"), "", mapped), None)
    train = _array_set(name, arrays["images"], arrays.get("labels"), "train")
    val = _array_set(name, arrays["val_images"], arrays.get("val_labels"), "val")
    if train.labels is not None and val.labels is not None:
        align_classes(name, train, val)
    return ImageSets(train, val)


def _map(path: Path) -> NDArray[Any]:
    """The array in a .npy, left on disk. Copy on write, since torch has no read-only tensors."""
    return np.lib.format.open_memmap(path, mode="c")


def _rgb(images: NDArray[Any]) -> NDArray[Any]:
    """Three equal channels for grey images (N, H, W), without taking memory."""
    return np.broadcast_to(images[..., None], (*images.shape, 3)) if images.ndim == 3 else images


def _array_set(
    name: str, images: NDArray[Any], labels: NDArray[Any] | None, split: str, file: Path | None = None
) -> ArrayImages:
    rgb = _rgb(images)
    if rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape[1:]:
        raise DataError(
            f"{name}: images must be uint8 (N, H, W, 3) or (N, H, W), got {images.dtype} {images.shape}"
        )
    if not len(rgb):
        raise DataError(f"no images in {name}: the array is empty")
    if labels is None:
        return ArrayImages(name, rgb, None, (), split, file)
    if labels.shape != (len(rgb),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            f"{name}: labels must be {len(rgb)} whole numbers from 0, got {labels.dtype} {labels.shape}"
        )
    classes, places = np.unique(labels, return_inverse=True)
    return ArrayImages(name, rgb, places.astype(np.int64), (str(c) for c in classes), split)


def open_known(name: str) -> ImageSets:
    """The demo set, or one that torchvision downloads to SIAM_DATASETS (by default ~/.cache/siam)."""
    if name == "demo":
        train, test = (ArrayImages("demo", *demo_images(split), split) for split in ("train", "test"))
        return ImageSets(train, test)
    from torchvision import datasets

    root = Path(os.environ.get("SIAM_DATASETS", Path.home() / ".cache" / "siam"))

    def get(**split: Any) -> Any:
        kind: Any = getattr(datasets, name.upper())
        try:
            return kind(root, download=False, **split)
        except RuntimeError:
            pass
        try:
            return kind(root, download=True, **split)
        except Exception as error:
            raise DataError(
                f"{name} is not in {root} and cannot be downloaded ({error}); put it there"
            ) from None

    if name == "stl10":
        train, val = get(split="train+unlabeled"), get(split="test")
        return ImageSets(
            ArrayImages(name, train.data.transpose(0, 2, 3, 1), None, (), "train"),
            ArrayImages(name, val.data.transpose(0, 2, 3, 1), None, (), "test"),
        )
    train, test = (
        ArrayImages(name, part.data, np.array(part.targets, dtype=np.int64), part.classes, split)
        for split, part in (("train", get(train=True)), ("test", get(train=False)))
    )
    return ImageSets(train, test)
