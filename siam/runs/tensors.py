"""Tensors out of files, without executing anything in them."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from siam.errors import RunError, first_line


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's contents, read without executing anything in it. Raises RunError.

    It is a zip, so each part of it has a checksum; torch itself does not look at them.
    """
    try:
        with zipfile.ZipFile(file) as parts:
            damaged = parts.testzip()
        if damaged is not None:
            raise RunError(f"{file} is damaged: the checksum of {damaged} is wrong")
        contents: dict[str, Any] = load_tensors(file)
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint at {file}") from None
    except Exception as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}") from None
    return contents


def load_tensors(file: Path) -> Any:
    """What torch saved, as long as it is tensors and plain values: nothing else is built, nothing executed.

    Raises ValueError, which says why not, and what torch raises for damaged files.
    """
    with file.open("rb") as opened:
        pickled = opened.read(2) in (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
    if not pickled:
        raise ValueError("it is not a checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than tensors, and what it holds will not be executed") from None
