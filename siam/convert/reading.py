"""Find the weights in a checkpoint file or folder, and what the file says about them."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor

from siam.convert.layouts import State
from siam.convert.pickles import StandIn, load_foreign, state_dict_of
from siam.errors import RunError, first_line
from siam.runs.folder import CHECKPOINT, ENCODER, NETWORK, SETTINGS, open_run
from siam.system.files import named_in_utf8

_WEIGHTS = (NETWORK, CHECKPOINT, ENCODER, "model.safetensors", "pytorch_model.bin")
"""File names of the weights in a folder, in order of preference."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Lists of the files that hold a large model's weights in a folder of Transformers."""

_WRAPPERS = (
    "state_dict", "model_state_dict", "model", "network", "net", "teacher", "student", "module", "state",
    "model_ema", "state_dict_ema", "classy_state_dict", "base_model",
)  # fmt: skip
"""Keys below which training scripts save their weights, in order of preference."""

_NOT_WEIGHTS = ("optim", "sched", "scaler", "amp", "loops", "callbacks", "progress")
"""Starts of the keys of training state, whose tensors are not weights."""

_MAX_DEPTH = 6
MAX_IMAGE_SIZE = 8192

_VIT_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


def read_tensors(file: Path) -> tuple[State, dict[str, str]]:
    """Read a checkpoint's tensors and metadata, without executing code from the file.

    Metadata: any of backbone, width, stem, image_size, method, data and arch, a backbone that the training
    script names. Raises RunError if the file does not exist, has no tensors, or cannot be read safely.
    """
    file = file.expanduser()
    if file.is_dir():
        return _read_folder(file)
    if not file.is_file():
        problem = "is not a regular file" if file.exists() else "does not exist"
        raise RunError(f"checkpoint {file} {problem}")
    tensors, metadata = _read_file(file)
    _require_dense(tensors, file)
    if file.name.startswith(Path(CHECKPOINT).stem) and (file.parent / SETTINGS).is_file():
        metadata |= _run_metadata(file.parent)
    return tensors, metadata


def _read_folder(folder: Path) -> tuple[State, dict[str, str]]:
    found = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    index = next((folder / name for name in _INDEXES if (folder / name).is_file()), None)
    if found is not None:
        tensors, metadata = read_tensors(found)
    elif index is not None:
        tensors, metadata = _read_parts(index), {}
    else:
        raise RunError(f"no checkpoint in {folder}: expected one of {', '.join(_WEIGHTS)}")
    if (folder / SETTINGS).is_file():
        return tensors, metadata | _run_metadata(folder)
    return tensors, metadata | _config_metadata(folder / "config.json")


def _read_parts(index: Path) -> State:
    """Read the files listed in a model's index; they must be in its folder. Raises RunError."""
    weights = _read_json(index).get("weight_map")
    names = sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise RunError(f"{index} does not list the files of the weights next to it")
    tensors: State = {}
    for name in names:
        tensors |= read_tensors(index.parent / name)[0]
    return tensors


def _read_file(file: Path) -> tuple[State, dict[str, str]]:
    try:
        if _is_safetensors(file):
            with named_in_utf8(file) as path, safe_open(path, framework="pt") as opened:
                metadata = dict(opened.metadata() or {})
                return {key: opened.get_tensor(key) for key in opened.keys()}, metadata  # noqa: SIM118
        contents = load_foreign(file)
    except Exception as error:  # corrupt bytes make zipfile, torch and safetensors raise errors of any kind
        reason = first_line(error, 250)
        if file.suffix == ".onnx":
            reason = "ONNX models cannot be imported; import the original checkpoint instead"
        raise RunError(f"{file} cannot be read: {reason}") from None
    tensors = _tensors_within(contents)
    if not tensors:
        raise RunError(f"{file} does not contain a state dict")
    return tensors, _metadata_within(contents)


def _is_safetensors(file: Path) -> bool:
    """Return True if the file starts with a safetensors header."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _require_dense(tensors: State, file: Path) -> None:
    """Raise RunError for tensors that claim more values than the file has bytes, or are no plain numbers."""
    size = file.stat().st_size
    for key, value in tensors.items():
        plain = value.layout == torch.strided and not (
            value.is_quantized or value.is_meta or value.is_complex()
        )
        if not plain:
            raise RunError(f"{file} cannot be read: {key} is not a dense tensor of numbers")
        if value.numel() > size:
            raise RunError(f"{file} is corrupt: {key} claims {value.numel():,} values in {size:,} bytes")


def _tensors_within(contents: Any) -> State:
    """Return the tensors of a state dict or module, below keys such as 'model'; {} if there are none."""
    for _ in range(_MAX_DEPTH):
        if isinstance(contents, StandIn):
            return state_dict_of(contents) or _largest_module(contents)
        if not isinstance(contents, dict):
            return {}
        inner = next((contents[key] for key in _WRAPPERS if _holds_weights(contents.get(key))), None)
        if inner is None:
            break
        contents = inner
    return _flat(contents, set())


def _largest_module(owner: StandIn) -> State:
    """Return the state dict of the module among an object's fields, such as a trainer's model."""
    states = [state_dict_of(value) for value in owner.state.values() if isinstance(value, StandIn)]
    return max(states, key=len, default={})


def _holds_weights(value: Any) -> bool:
    return isinstance(value, dict | StandIn) and bool(
        _flat(value, set()) if isinstance(value, dict) else value.state
    )


def _flat(contents: dict[Any, Any], seen: set[int], prefix: str = "", depth: int = 0) -> State:
    """Return the tensors of nested dicts by their dotted keys, without the optimizer's.

    seen: the dicts that were visited; a hostile file may hold the same one many times.
    """
    found: State = {}
    seen.add(id(contents))
    for key, value in contents.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif str(key).lower().startswith(_NOT_WEIGHTS) or depth == _MAX_DEPTH:
            continue
        elif isinstance(value, StandIn):
            found |= {f"{prefix}{key}.{inner}": tensor for inner, tensor in state_dict_of(value).items()}
        elif isinstance(value, dict) and id(value) not in seen:
            found |= _flat(value, seen, f"{prefix}{key}.", depth + 1)
    return found


def _metadata_within(contents: Any) -> dict[str, str]:
    """Return the metadata that `siam export` wrote to a torch file, and the backbone that a script names."""
    if not isinstance(contents, dict):
        return {}
    arguments = contents.get("args")
    given = arguments.state if isinstance(arguments, StandIn) else arguments
    given = given if isinstance(given, dict) else {}
    names = (contents.get("arch"), given.get("model"), given.get("arch"))
    arch = next((name for name in names if isinstance(name, str) and timm.is_model(name)), None)
    found = {} if arch is None else {"arch": arch}

    own = getattr(contents.get("model", contents), "_metadata", None)
    own = own.get("", {}) if isinstance(own, dict) else {}
    siam = contents.get("siam", own.get("siam") if isinstance(own, dict) else None)
    return found | ({str(key): str(value) for key, value in siam.items()} if isinstance(siam, dict) else {})


def _run_metadata(folder: Path) -> dict[str, str]:
    """Return what a run's settings say about its network. Raises RunError if they are invalid."""
    s = open_run(folder).settings
    return {
        "method": s.method.name, "backbone": s.backbone, "width": repr(s.width), "stem": s.stem,
        "image_size": str(s.views.size), "data": s.data,
    }  # fmt: skip


def _config_metadata(file: Path) -> dict[str, str]:
    """Return what the config.json of a folder of timm or Transformers says, or {} if there is none."""
    if not file.is_file():
        return {}
    config = _read_json(file)
    pretrained = config.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, dict) else config
    size = pretrained.get("input_size", pretrained.get("image_size", config.get("image_size")))
    side = size[-1] if isinstance(size, list) and size else size
    found = {"backbone": config.get("architecture") or _transformers_backbone(config), "image_size": side}
    siam = config.get("siam")
    found |= siam if isinstance(siam, dict) else {}
    return {str(key): str(value) for key, value in found.items() if value is not None}


def _transformers_backbone(config: dict[str, Any]) -> str | None:
    """Return timm's name of the Vision Transformer that a config of Transformers describes, if any."""
    hidden = config.get("hidden_size")
    size = _VIT_SIZES.get(hidden) if isinstance(hidden, int) else None
    patch, side = config.get("patch_size"), config.get("image_size")
    name = {
        "vit": f"vit_{size}_patch{patch}_{side}",
        "deit": f"deit_{size}_distilled_patch{patch}_{side}",
        "dinov2": f"vit_{size}_patch{patch}_dinov2",
        "dinov2_with_registers": f"vit_{size}_patch{patch}_reg4_dinov2",
        "vit_mae": f"vit_{size}_patch{patch}_{side}",
    }.get(str(config.get("model_type")))
    return name if name is not None and timm.is_model(name) else None


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises RunError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise RunError(f"{file} cannot be read: it is not a JSON object")
    return found
