"""Images given as Python objects: names, lists of paths, PIL images, arrays and tensors."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from siam.data.decode import to_pixels
from siam.data.images import Images, ImageSets
from siam.data.sources import open_images
from siam.data.sources.picture import files
from siam.errors import DataError, first_line

_FORMS = "a path, a list of paths, PIL images, or uint8 arrays (H, W, 3) or (N, H, W, 3)"


def open_given(data: Any) -> ImageSets:
    """Open a dataset by its name or path, or wrap images that are already in memory.

    data: anything that `open_images` takes; a list of paths of image files; a PIL image or a list of them; or
    uint8 arrays (H, W, 3), (N, H, W, 3), (H, W) or (N, H, W), or tensors (3, H, W) or (N, 3, H, W). Lists may
    be mixed. Raises DataError.
    """
    if data is None or isinstance(data, str | Path):
        return open_images(data)
    given = list(data) if isinstance(data, Sequence) else [data]
    if not given:
        raise DataError("found no images: the list is empty")
    if all(isinstance(one, str | os.PathLike) for one in given):
        return ImageSets(files([os.path.expanduser(os.fspath(one)) for one in given]), None)
    images: list[Tensor | str] = []
    names: list[str] = []
    for one in given:
        added = _images_of(one)
        images += added
        path = one if isinstance(one, str) else getattr(one, "filename", "")
        names += [str(path) if path else f"{len(names) + i:06d}" for i in range(len(added))]
    return ImageSets(_Given(images, names), None)


def _images_of(one: Any) -> list[Tensor | str]:
    """Return one item's images as uint8 (3, H, W), or its path. Raises DataError."""
    if isinstance(one, str | os.PathLike):
        return [os.path.expanduser(os.fspath(one))]
    if isinstance(one, Image.Image):
        try:
            return [to_pixels(one)]
        except Exception as error:  # a truncated file, which Pillow reads only now
            raise DataError(f"an image cannot be read: {first_line(error)}") from None
    if isinstance(one, Tensor):
        return _planes(one.detach().cpu(), channels_last=False)
    if isinstance(one, np.ndarray):
        try:
            return _planes(torch.from_numpy(np.array(one)), channels_last=True)
        except TypeError:  # objects, strings
            raise DataError(f"images must be {_FORMS}, got {one.dtype} {one.shape}") from None
    raise DataError(f"images must be {_FORMS}, got {type(one).__name__}")


def _planes(pixels: Tensor, channels_last: bool) -> list[Tensor | str]:
    """Split an array or tensor of one or more images into uint8 (3, H, W). Raises DataError."""
    shape = tuple(pixels.shape)
    gray = pixels.dim() == 2 or (pixels.dim() == 3 and shape[-1 if channels_last else 0] not in (1, 3, 4))
    if gray:
        pixels = pixels.unsqueeze(-1 if channels_last else -3)  # one channel
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(0)  # one image
    if channels_last and pixels.dim() == 4:
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.dim() != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape or pixels.dtype != torch.uint8:
        kind = str(pixels.dtype).removeprefix("torch.")
        raise DataError(f"images must be {_FORMS}, got {kind} {shape}")
    return list(pixels.expand(-1, 3, -1, -1).contiguous())


class _Given:
    """Images in memory, (3, H, W) each, and paths of others."""

    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None

    def __init__(self, images: list[Tensor | str], names: list[str]) -> None:
        self.name, self.images, self.names = "the list", images, names
        self.files: Images = files([one if isinstance(one, str) else "" for one in images])

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size_hint(self) -> tuple[int, int]:
        height, width = self.read(0).shape[1:]
        return height, width

    def path(self, i: int) -> str:
        return self.names[i]

    def encoded(self, i: int) -> bytes | None:
        return self.files.encoded(i) if isinstance(self.images[i], str) else None

    def signature(self) -> bytes:
        return self.files.signature() + b"".join(
            one.numpy().tobytes() for one in self.images if isinstance(one, Tensor)
        )

    def read(self, i: int) -> Tensor:
        one = self.images[i]
        return one if isinstance(one, Tensor) else self.files.read(i)

    def stacked(self) -> Tensor | None:
        return None
