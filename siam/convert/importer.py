"""Import checkpoints from other projects as runs."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from siam.convert.layouts import State, recognize, translate
from siam.errors import RunError, SettingsError, first_line
from siam.methods import METHODS, Method
from siam.network import Network
from siam.runs.encoder import save_encoder, save_network
from siam.runs.folder import METRICS, NETWORK, SETTINGS, save_settings
from siam.runs.tensors import load_tensors
from siam.settings.pretraining import Settings, ViewSettings
from siam.system.files import regular

_BLOCKS = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""ResNet names by block type (True for bottleneck) and number of blocks per stage."""


@dataclass(frozen=True)
class Imported:
    """Summary of an imported checkpoint."""

    run: str
    layout: str
    backbone: str
    method: str
    parts: tuple[str, ...]
    """Parts found: any of backbone, projector, predictor and target_encoder."""
    left_out: tuple[str, ...]
    """Checkpoint keys without a counterpart in the network."""


def import_checkpoint(
    checkpoint: str | Path, out: str | Path, backbone: str | None = None, image_size: int | None = None
) -> Imported:
    """Import `checkpoint` as the run `out`; its format is detected from its keys.

    checkpoint: a file, or a folder written by timm or Siam. backbone: timm name;
    required unless the backbone is a plain ResNet or the checkpoint specifies it.
    image_size: input size in pixels; None: from the checkpoint's metadata or, without
    any, 224 (32 for a small-image stem). Returns a summary. Raises RunError if the
    checkpoint is unreadable, is in an unknown format or has missing keys, or if `out`
    already contains a run; raises SettingsError for an unknown backbone or method.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if (out / SETTINGS).exists():
        raise RunError(f"{out} already contains a run: choose another --out")
    tensors, metadata = read_tensors(checkpoint)
    layout = recognize(list(tensors))
    state, left = translate(tensors, layout)
    _fold_output_bias(state)

    settings = _settings(state, metadata, backbone, image_size, layout.method)
    network = Network(settings.method, settings.backbone, settings.views.size, settings.width, settings.stem)
    _load(network, state, checkpoint)
    parts = tuple(
        name for name in ("backbone", "projector", "predictor", "target_encoder") if _has(state, name)
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror or error}") from None
    save_encoder(out, network.backbone, settings)
    save_network(out, network)
    record = {"kind": "imported", "from": str(checkpoint), "layout": layout.name, "parts": parts}
    (out / METRICS).write_text(json.dumps(record) + "\n")
    save_settings(out, settings)  # last, because it makes the folder a run
    return Imported(str(out), layout.name, settings.backbone, settings.method.name, parts, tuple(left))


def read_tensors(file: Path) -> tuple[State, dict[str, str]]:
    """Read a checkpoint's tensors and metadata, without executing code from the file.

    Raises RunError if the file does not exist, has no tensors, or cannot be read safely.
    """
    if file.is_dir():
        inner = [file / name for name in (NETWORK, "encoder.safetensors", "model.safetensors")]
        found = next((path for path in inner if path.exists()), None)
        if found is None:
            raise RunError(
                f"no checkpoint in {file}: expected one of {', '.join(path.name for path in inner)}"
            )
        tensors, metadata = read_tensors(found)
        return tensors, metadata | _timm_config(file)
    if not file.is_file():
        problem = "is not a regular file" if file.exists() else "does not exist"
        raise RunError(f"checkpoint {file} {problem}")
    try:
        if _is_safetensors(file):
            with safe_open(file, framework="pt") as opened:
                metadata = dict(opened.metadata() or {})
                return {key: opened.get_tensor(key) for key in opened.keys()}, metadata  # noqa: SIM118
        contents = load_tensors(file)
    except Exception as error:
        reason = first_line(error)
        if file.suffix == ".onnx":
            reason = "ONNX models cannot be imported; import the original checkpoint instead"
        raise RunError(f"{file} cannot be read: {reason}") from None
    return _tensors_within(contents, file), _metadata_within(contents)


def _is_safetensors(file: Path) -> bool:
    """Return True if the file starts with a safetensors header."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _tensors_within(contents: Any, file: Path) -> State:
    """Return the tensors of a state dict, unwrapping keys such as 'model'."""
    for key in ("state_dict", "model", "network", "model_state_dict", "student"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if not isinstance(contents, dict):
        raise RunError(f"{file} does not contain a state dict")
    tensors = {str(key): value for key, value in contents.items() if isinstance(value, Tensor)}
    if not tensors:
        raise RunError(f"{file} does not contain a state dict")
    return tensors


def _metadata_within(contents: Any) -> dict[str, str]:
    """Return the metadata that `siam export` wrote to a torch file, if any."""
    state = contents.get("model", contents) if isinstance(contents, dict) else contents
    own = getattr(state, "_metadata", {}).get("", {}).get("siam", {})
    siam = contents.get("siam", own) if isinstance(contents, dict) else own
    return {str(key): str(value) for key, value in siam.items()} if isinstance(siam, dict) else {}


def _timm_config(folder: Path) -> dict[str, str]:
    """Return the metadata in a timm folder's config.json, or {} if there is no such file."""
    file = folder / "config.json"
    if not file.exists():
        return {}
    config = json.loads(regular(file).read_text())
    size = config.get("pretrained_cfg", {}).get("input_size", [3, 224, 224])[-1]
    return {"backbone": config["architecture"], "image_size": str(size)} | config.get("siam", {})


def _has(state: State, part: str) -> bool:
    return any(key.startswith(f"{part}.") for key in state)


def _fold_output_bias(state: State) -> None:
    """Fold the bias of the last projector layer into the next BN's running mean.

    Siam's last layer has no bias, because BN would cancel it; SimSiam's release has
    one.
    """
    layers = sorted({int(key.split(".")[1]) for key in state if re.match(r"projector\.\d+\.", key)})
    if not layers:
        return
    mean, bias = f"projector.{layers[-1]}.running_mean", f"projector.{layers[-1] - 1}.bias"
    if mean in state and bias in state:
        state[mean] = state[mean] - state.pop(bias)


def _settings(
    state: State, metadata: dict[str, str], backbone: str | None, image_size: int | None, method: str | None
) -> Settings:
    """Infer missing settings from tensor shapes and metadata."""
    name = backbone or metadata.get("backbone") or _resnet(state)
    first = state.get("backbone.conv1.weight")
    small = first is not None and first.shape[-1] == 3
    method = method or metadata.get("method") or "simsiam"
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise SettingsError(f"unknown method '{method}' in the checkpoint's metadata (methods: {known})")
    return Settings(
        data=metadata.get("data", "unknown"),
        backbone=name,
        width=float(metadata.get("width", 1.0)),
        stem="small" if small else "standard",
        views=ViewSettings(size=image_size or int(metadata.get("image_size", 32 if small else 224))),
        method=_heads(state, METHODS[method]),
    )


def _resnet(state: State) -> str:
    """Identify the ResNet by its blocks. Raises RunError if none matches."""
    stages: list[set[str]] = [set(), set(), set(), set()]
    for key in state:
        found = re.match(r"backbone\.layer([1-4])\.(\d+)\.", key)
        if found:
            stages[int(found[1]) - 1].add(found[2])
    bottlenecks = any(re.match(r"backbone\.layer1\.0\.conv3\.", key) for key in state)
    blocks = (bottlenecks, tuple(len(stage) for stage in stages))
    if blocks not in _BLOCKS:
        raise RunError("the backbone is not a plain ResNet: specify its timm name with --backbone")
    return _BLOCKS[blocks]


def _heads(state: State, method: Method) -> Method:
    """Return `method` with the head depths and widths inferred from `state`."""
    projector = _linear_shapes(state, "projector")
    if not projector:
        return method
    normed = {key for key in state if re.match(r"projector\.\d+\.running_mean", key)}
    output_bn = len(normed) == len(projector)
    method = replace(
        method,
        projector_layers=len(projector),
        projector_hidden=projector[0][0] if len(projector) > 1 else method.projector_hidden,
        dim=projector[-1][0],
        batch_norm="default" if output_bn else "hidden" if normed else "none",
    )
    predictor = _linear_shapes(state, "predictor")
    if predictor:
        return replace(method, predictor="learned", predictor_hidden=predictor[0][0])
    return method


def _linear_shapes(state: State, part: str) -> list[tuple[int, int]]:
    """Return the (out, in) shapes of a head's linear layers, in order."""
    found = {
        int(key.split(".")[1]): (int(value.shape[0]), int(value.shape[1]))
        for key, value in state.items()
        if re.match(rf"{part}\.\d+\.weight", key) and value.dim() == 2
    }
    return [found[layer] for layer in sorted(found)]


def _load(network: Network, state: State, checkpoint: Path) -> None:
    """Load `state` into `network`. Raises RunError if keys or shapes do not match."""
    own = network.state_dict()
    needed = [
        key for key in own if _has(state, key.split(".")[0]) and not key.endswith("num_batches_tracked")
    ]
    missing = [key for key in needed if key not in state]
    unknown = [key for key in state if key not in own]
    misshapen = [key for key in needed if key in state and state[key].shape != own[key].shape]
    if not _has(state, "backbone"):
        raise RunError(f"{checkpoint} has no backbone weights")
    for problem, keys in (
        ("missing keys", missing), ("unexpected keys", unknown), ("mismatched shapes", misshapen)
    ):  # fmt: skip
        if keys:
            named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise RunError(f"{checkpoint} has {problem}: {named}")
    network.load_state_dict({**own, **state})
    if network.target_encoder is not None and not _has(state, "target_encoder"):
        network.update_target(0.0)
