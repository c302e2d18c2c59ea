"""Public datasets that torchvision downloads.

SIAM_DATASETS sets the download folder (default: ~/.cache/siam).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from siam.data.images import ImageSets
from siam.data.sources.arrays import ArrayImages
from siam.errors import DataError

NAMES = ("cifar10", "cifar100", "stl10")
LOOKS_LIKE = "a public dataset (cifar10, cifar100, stl10)"
ORDER = 80


def recognizes(name: str) -> bool:
    return name in NAMES and not os.path.exists(name)


def open(name: str) -> ImageSets:
    if name == "stl10":
        train, val = _get(name, split="train+unlabeled"), _get(name, split="test")
        return ImageSets(
            ArrayImages(name, train.data.transpose(0, 2, 3, 1), None, (), "train"),
            ArrayImages(name, val.data.transpose(0, 2, 3, 1), None, (), "test"),
        )
    train, test = (
        ArrayImages(name, part.data, np.array(part.targets, dtype=np.int64), part.classes, split)
        for split, part in (("train", _get(name, train=True)), ("test", _get(name, train=False)))
    )
    return ImageSets(train, test)


def _get(name: str, **split: Any) -> Any:
    """Return a torchvision dataset, downloading it if necessary. Raises DataError."""
    from torchvision import datasets

    root = Path(os.environ.get("SIAM_DATASETS", Path.home() / ".cache" / "siam"))
    dataset: Any = getattr(datasets, name.upper())
    try:
        return dataset(root, download=False, **split)
    except RuntimeError:
        pass
    try:
        return dataset(root, download=True, **split)
    except Exception as error:
        raise DataError(
            f"{name} is not in {root} and cannot be downloaded ({error}); copy it there"
        ) from None
