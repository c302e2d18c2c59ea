"""Load tensors from files without executing any code in them."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from siam.errors import RunError, first_line


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Load a checkpoint without executing any code in it. Raises RunError if it is missing or corrupt.

    A checkpoint is a zip archive with a checksum per member; this function verifies them, unlike torch.load.
    """
    try:
        with zipfile.ZipFile(file) as members:
            if sum(member.file_size for member in members.infolist()) > file.stat().st_size:
                raise RunError(f"{file} is not a checkpoint of Siam's: it is compressed")
            damaged = members.testzip()
        if damaged is not None:
            raise RunError(f"{file} is corrupt: the checksum of {damaged} is wrong")
        contents: Any = load_tensors(file)
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint at {file}") from None
    except Exception as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}") from None
    if not isinstance(contents, dict) or not all(isinstance(name, str) for name in contents):
        raise RunError(f"{file} is not a checkpoint of Siam's: it has no named parts")
    return contents


def load_tensors(file: Path) -> Any:
    """Load tensors and plain values from a file written by torch.save, without executing any code in it.

    Raises ValueError with the reason if the file contains anything else, and torch's own errors if the file
    is corrupt.
    """
    with file.open("rb") as opened:
        pickled = opened.read(2) in (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
    if not pickled:
        raise ValueError("it is not a checkpoint")
    try:
        with warnings.catch_warnings(), file.open("rb") as opened:  # torch.load needs names that are UTF-8
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it contains objects other than tensors; loading them could execute code") from None
