"""Images of equal size in a .npy or .npz file.

A .npz file contains `images` and, optionally, `labels`, `val_images` and `val_labels`.
"""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.images import UNLABELED, ImageSets, class_of
from siam.data.labels import align_classes
from siam.data.left_out import LeftOut
from siam.errors import DataError, first_line
from siam.system.resources import total_memory

LABELS = "array of labels without a class per image", "arrays of labels without a class per image"

LOOKS_LIKE = "a .npy or .npz array"
ORDER = 50

_SAMPLE = 500  # images whose pixels are compared on resume


def recognizes(name: str) -> bool:
    return Path(name).suffix in (".npy", ".npz") and os.path.isfile(name)


def open(name: str) -> ImageSets:
    path = Path(name)
    try:
        if path.suffix == ".npy":
            arrays = {"images": _map(path)}
        else:
            with zipfile.ZipFile(path) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > total_memory():
                raise DataError(f"its arrays have {size / 2**30:,.1f} GiB, more than this machine's memory")
            with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
                arrays = dict(loaded)
    except Exception as error:  # corrupt bytes make numpy and zipfile raise errors of many kinds
        raise DataError(f"{name} cannot be read: {first_line(error)}") from None
    if "images" not in arrays:
        raise DataError(f"{name} has no 'images' array, only {', '.join(sorted(arrays)) or 'nothing'}")
    left_out = LeftOut()
    if "val_images" not in arrays:
        mapped = path if path.suffix == ".npy" else None
        images = _array_set(name, arrays["images"], arrays.get("labels"), "", left_out, mapped)
        return ImageSets(images, None, left_out=left_out)
    train = _array_set(name, arrays["images"], arrays.get("labels"), "train", left_out)
    val = _array_set(name, arrays["val_images"], arrays.get("val_labels"), "val", left_out)
    align_classes(train, val, left_out)
    return ImageSets(train, val, left_out=left_out)


class ArrayImages:
    """Images of equal size in a uint8 array (N, H, W, 3)."""

    groups: NDArray[np.int64] | None = None

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        classes: Iterable[str],
        split: str = "",
        file: Path | None = None,
    ) -> None:
        """Create a dataset from arrays.

        split: folder name to prepend to the image names. file: the .npy file from which
        `images` is memory-mapped, if any.
        """
        self.name, self.images, self.labels, self.classes = name, images, labels, tuple(classes)
        self.file = file
        self.prefix = f"{split}/" if split else ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size_hint(self) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    def path(self, i: int) -> str:
        kind = class_of(self, i)
        folder = "" if kind is None else f"{kind}/"
        return f"{self.prefix}{folder}{i:06d}"

    def encoded(self, i: int) -> None:
        return None

    def read(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[i], order="C")).permute(2, 0, 1)

    def stacked(self) -> Tensor:
        return torch.from_numpy(self.images).permute(0, 3, 1, 2)

    def signature(self) -> bytes:
        """Return the shape, and the pixels of a sample: images in an array all have the same size."""
        sample = np.unique(np.linspace(0, len(self) - 1, min(len(self), _SAMPLE)).astype(np.int64))
        return str(self.images.shape).encode() + self.images[sample].tobytes()

    def __getstate__(self) -> dict[str, Any]:
        """Omit memory-mapped pixels: each worker maps the file itself."""
        return {k: v for k, v in self.__dict__.items() if k != "images" or self.file is None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.file is not None:
            self.images = _rgb(_map(self.file))


def _map(path: Path) -> NDArray[Any]:
    """Memory-map a .npy file copy-on-write, because torch has no read-only tensors."""
    return np.lib.format.open_memmap(path, mode="c")


def _rgb(images: NDArray[Any]) -> NDArray[Any]:
    """Expand grayscale images (N, H, W) to three channels, as a writable view."""
    if images.ndim != 3:
        return images
    return np.lib.stride_tricks.as_strided(images, (*images.shape, 3), (*images.strides, 0))


def _array_set(
    name: str,
    images: NDArray[Any],
    labels: NDArray[Any] | None,
    split: str,
    left_out: LeftOut,
    file: Path | None = None,
) -> ArrayImages:
    """Create a dataset from images and labels. Raises DataError if the images cannot be used.

    Labels that cannot be used are recorded in `left_out`.
    """
    rgb = _rgb(images)
    if rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape[1:]:
        raise DataError(
            f"{name}: images must be uint8 (N, H, W, 3) or (N, H, W), got {images.dtype} {images.shape}"
        )
    if not len(rgb):
        raise DataError(f"found no images in {name}: the array is empty")
    if labels is None:
        return ArrayImages(name, rgb, None, (), split, file)
    values = _values(labels, len(rgb))
    if values is None:
        array = "val_labels" if split == "val" else "labels"
        left_out.add(LABELS, [f"{array}: {labels.dtype} {labels.shape} for {len(rgb)} images"])
        return ArrayImages(name, rgb, None, (), split, file)
    unlabeled = np.isin(values, ("", "-1") if values.dtype.kind == "U" else UNLABELED)
    classes = np.unique(values[~unlabeled])
    if not len(classes):
        return ArrayImages(name, rgb, None, (), split, file)
    numbers = np.where(unlabeled, UNLABELED, np.searchsorted(classes, values))
    return ArrayImages(name, rgb, numbers.astype(np.int64), (str(c) for c in classes), split)


def _values(labels: NDArray[Any], count: int) -> NDArray[Any] | None:
    """Return labels as integers or strings (N,), -1 for NaN; None if they are not one class per image."""
    if labels.size != count or labels.dtype.kind not in "biufU":
        return None
    values = labels.reshape(count)
    if labels.dtype.kind == "f":
        values = np.where(np.isnan(values), UNLABELED, values)
        whole = (values == np.round(values)) & (np.abs(values) < 2**53)
        return values.astype(np.int64) if whole.all() else None
    return values if labels.dtype.kind == "U" else values.astype(np.int64)
