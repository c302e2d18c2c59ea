"""Read other projects' torch files without executing any code in them.

Next to the weights, a checkpoint may hold argument namespaces, configuration objects or a whole module.
torch's weights_only reader refuses every name that it does not know; here, an inert stand-in takes the place
of each, so that the tensors can be read while nothing that the file names is imported or called.
"""

import io
import pickle
import pickletools
import tempfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from siam.convert.protocols import needs_translation, translated, write_translated

_MAX_PICKLE = 16 << 20
"""Maximum size of a file's pickled structure, in bytes; the tensors' values are stored outside it."""

_PICKLES = 5  # in a file of torch before 1.6: magic number, version, system, contents, storage keys

_CODE = "contains objects other than tensors; loading them could execute code"

_OLD_MODULE = "it is a whole module in the format of torch before 1.6: save its state_dict() instead"

_MAX_MAPPINGS = 10  # types of dicts in a file, each of which costs reading it again

_DATA_MODULES = {"numpy", "torch", "collections", "datetime", "copyreg", "functools", "_codecs", "decimal"}
_DATA_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range",
    "set", "slice", "str", "tuple", "getattr", "type",
}  # fmt: skip
_CODE_MODULES = {"os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "ctypes", "pickle"}


class StandIn(list[Any]):
    """An object of an unknown type: it accepts any arguments, and keeps only its state.

    It is a list because the types of some lists are unknown, too.
    """

    state: dict[str, Any] = {}  # noqa: RUF012, replaced and never changed

    def __new__(cls, *args: Any, **kwargs: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    __hash__ = object.__hash__  # type: ignore[assignment]


class _MappingStandIn:
    """The same for unknown types of dicts: torch fills only its own and Python's."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def load_foreign(file: Path) -> Any:
    """Load the tensors and plain values of a torch file; any other object is a `StandIn`.

    Newer pickle protocols are translated first, because torch reads protocol 2 only. Raises ValueError with
    the reason if the file names functions, and errors of other kinds if it is corrupt.
    """
    structure = _structure(file)
    if structure is None:
        raise ValueError("it is not a checkpoint")
    source: BinaryIO
    with ExitStack() as opened:
        if needs_translation(structure):
            plain, taken = translated(structure, _PICKLES)
            source = cast(BinaryIO, opened.enter_context(tempfile.TemporaryFile()))
            write_translated(file, plain, taken, source)
            structure = io.BytesIO(plain)
        else:
            source = opened.enter_context(file.open("rb"))  # torch.load needs names that are UTF-8
        return _load_with_stand_ins(source, _names_in(structure))


def _load_with_stand_ins(source: BinaryIO, names: set[str]) -> Any:
    """Load a torch file that names these types. Raises ValueError if one is a function's name."""
    code = sorted(name for name in names if not _is_data(name))
    if code:
        raise ValueError(f"it {_CODE} ({', '.join(code[:3])})")
    mappings = {name for name in names if "dict" in name.lower()}
    for _ in range(_MAX_MAPPINGS):  # which types are dicts shows when torch is about to fill one
        try:
            return _load(source, names, mappings)
        except pickle.UnpicklingError as error:
            if "Only persistent_load of storage" in str(error):
                raise ValueError(_OLD_MODULE) from None
            found = {name for name in names - mappings if f"{StandIn.__module__}.{name}'" in str(error)}
            if not found:
                break
            mappings |= found
    raise ValueError(f"it {_CODE}")


def _load(source: BinaryIO, names: set[str], mappings: set[str]) -> Any:
    """Load the file with stand-ins for all names that neither torch nor the user allows."""
    allowed = {
        one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"
        for one in torch.serialization.get_safe_globals()
    }
    stand_ins: list[Any] = [
        (type(name, (_MappingStandIn if name in mappings else StandIn,), {}), name)
        for name in sorted(names - allowed)
    ]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.seek(0)
        return torch.load(source, map_location="cpu", weights_only=True)


def _structure(file: Path) -> io.BytesIO | None:
    """Return the pickled structure of a torch file, or None if it is no torch file. Raises ValueError."""
    with file.open("rb") as opened:
        start = opened.read(2)
        if start in {b"\x80" + bytes([protocol]) for protocol in range(2, 6)}:
            opened.seek(0)
            return io.BytesIO(opened.read(_MAX_PICKLE))
    if start != b"PK":
        return None
    with zipfile.ZipFile(file) as members:
        infos = {info.filename.rpartition("/")[2]: info for info in members.infolist()}
        if "constants.pkl" in infos:
            raise ValueError("it is a TorchScript archive: save the model's state_dict() with torch.save")
        if "data.pkl" not in infos or any(info.compress_type for info in members.infolist()):
            raise ValueError("it is a zip archive, but not a checkpoint")
        if infos["data.pkl"].file_size > _MAX_PICKLE:
            raise ValueError(f"its structure is larger than {_MAX_PICKLE >> 20} MB")
        damaged = members.testzip()
        if damaged is not None:
            raise ValueError(f"it is corrupt: the checksum of {damaged} is wrong")
        return io.BytesIO(members.read(infos["data.pkl"]))


def _names_in(structure: io.BytesIO) -> set[str]:
    """Return the names of all types and functions in the pickles, such as argparse.Namespace.

    Only the names are read. Raises ValueError if the pickles are corrupt or too large.
    """
    names: set[str] = set()
    for _ in range(_PICKLES):
        if structure.tell() == len(structure.getbuffer()):
            break
        for opcode, argument, _ in pickletools.genops(structure):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                names.add(f"{module}.{name}")
    return names


def _is_data(name: str) -> bool:
    """Return True if this is probably the name of a type of data, and False if it is that of a function.

    Neither is imported. But the weights of a file that asks for os.system should not be trusted.
    """
    module, _, last = name.rpartition(".")
    root = module.partition(".")[0]
    if root == "builtins":
        return last in _DATA_BUILTINS
    return root not in _CODE_MODULES and (root in _DATA_MODULES or last.lstrip("_")[:1].isupper())


def state_dict_of(module: StandIn) -> dict[str, Tensor]:
    """Return the state dict of a whole module that was saved, from the state of its stand-ins."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, one = waiting.pop()
        for group in ("_parameters", "_buffers"):
            values = one.state.get(group)
            if isinstance(values, dict):
                found |= {
                    f"{prefix}{key}": value for key, value in values.items() if isinstance(value, Tensor)
                }
        inner = one.state.get("_modules")
        for key, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, StandIn) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{prefix}{key}.", value))
    return found
