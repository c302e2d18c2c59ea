"""Reading tensors from files without executing code in them."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from siam.errors import RunError, first_line


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, without executing code in it. Raises RunError.

    A checkpoint is a zip file, so each member has a checksum, which torch itself does not verify.
    """
    try:
        with zipfile.ZipFile(file) as members:
            damaged = members.testzip()
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
    """Load a file written by torch.save if it holds only tensors and plain values; no code in it runs.

    Raises ValueError with the reason if it does not, and torch's own errors for damaged files.
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
        raise ValueError("it holds objects other than tensors, and loading them could execute code") from None
