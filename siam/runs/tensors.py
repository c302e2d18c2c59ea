"""Load tensors from files without executing any code in them; write equal tensors as equal bytes."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor, nn

from siam.errors import RunError, first_line
from siam.system.files import Write, regular


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Load a checkpoint without executing any code in it. Raises RunError if it is missing or corrupt.

    A checkpoint is a zip archive with a checksum per member; this function verifies them, unlike torch.load.
    """
    try:
        with zipfile.ZipFile(regular(file)) as members:
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
    with regular(file).open("rb") as opened:
        pickled = opened.read(2) in (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
    if not pickled:
        raise ValueError("it is not a checkpoint")
    try:
        with warnings.catch_warnings(), file.open("rb") as opened:  # torch.load needs names that are UTF-8
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it contains objects other than tensors; loading them could execute code") from None


def torch_file(contents: Any) -> Write:
    """Serialize `contents` as torch.save does, and return a function that writes the bytes to a file.

    On a full disk, torch.save to a file aborts the process or raises RuntimeError; a plain write raises
    OSError.
    """
    data = io.BytesIO()
    torch.save(contents, data)
    return lambda file: file.write(data.getbuffer())


def safetensors_file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Write:
    """Serialize tensors as safetensors, and return a function that writes the bytes to a file.

    The library writes metadata in an order that differs between processes; here it is sorted.
    """
    data = memoryview(save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    if metadata:
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.write(data[start:])

    return write


def is_finite(module: nn.Module) -> bool:
    """Return whether all weights of a module are finite."""
    parameters = [p.detach() for p in module.parameters()]
    return not parameters or bool(torch.nn.utils.get_total_norm(parameters).isfinite())
