"""Import checkpoints from other projects as runs."""

import importlib
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from siam.convert.layouts import State, Translation, recognize, translate
from siam.convert.reading import MAX_IMAGE_SIZE, read_tensors
from siam.convert.resnets import find_resnet
from siam.errors import RunError, SettingsError
from siam.methods import METHODS, Method
from siam.network import Network
from siam.runs.encoder import encoder_file, network_file
from siam.runs.folder import ENCODER, METRICS, NETWORK, SETTINGS, Run, require_free, settings_file
from siam.settings.pretraining import Settings, ViewSettings
from siam.system.files import ELSEWHERE, make_folder, write_together, writing

_HEADS = ("projector", "predictor", "target_encoder")
_MAX_WIDTH, _MAX_LAYERS, _MAX_DIM = 16.0, 4, 65536


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

    checkpoint: a file, or a folder written by timm, Transformers or Siam. backbone: timm name; required
    unless the backbone is a ResNet or the checkpoint specifies it. image_size: input size in pixels; None:
    from the checkpoint or, if it does not say, 224 (32 for a small-image stem). Returns a summary. Raises
    RunError if the checkpoint is unreadable, is in an unknown format or has missing keys, or if `out` already
    contains a run; raises SettingsError for an unknown backbone or method.
    """
    checkpoint, out = Path(checkpoint).expanduser(), Path(out).expanduser()
    require_free(out)
    tensors, metadata = read_tensors(checkpoint)
    layout = recognize(list(tensors))
    found = translate(tensors, layout)
    _fold_output_bias(found.state)
    settings = _settings(found.state, metadata, backbone, image_size, layout.method)
    with torch.device("meta"):  # without memory: shapes are compared first
        expected = _network(settings)
    remedy = f"if the backbone is not {settings.backbone}, specify its timm name with --backbone"
    state, left = _fitting(found, expected, checkpoint, remedy)
    network = _network(settings)
    network.load_state_dict({**network.state_dict(), **state})
    if network.target_encoder is not None and not _has(state, "target_encoder"):
        network.update_target(0.0)

    parts = tuple(name for name in ("backbone", *_HEADS) if _has(state, name))
    record = {"kind": "imported", "from": str(checkpoint), "layout": layout.name, "parts": parts}
    line = json.dumps(record) + "\n"
    with writing(out, ELSEWHERE), make_folder(out):
        write_together(
            {
                out / ENCODER: encoder_file(network.backbone, settings),
                out / NETWORK: network_file(network, parts),
                out / METRICS: lambda file: file.write(line.encode()),
                out / SETTINGS: settings_file(settings),  # last, because it makes the folder a run
            }
        )
    return Imported(str(out), layout.name, settings.backbone, settings.method.name, parts, tuple(left))


def backbone_weights(checkpoint: Path, run: Run) -> State:
    """Return a checkpoint's backbone weights, under the keys of the backbone of `run`.

    Raises RunError if the checkpoint cannot be read or has another backbone.
    """
    tensors, _ = read_tensors(checkpoint)
    found = translate(tensors, recognize(list(tensors)))
    with torch.device("meta"):
        expected = _network(run.settings)
    remedy = f"it does not match the {run.settings.backbone} backbone of {run.folder}"
    state, _ = _fitting(found, expected, checkpoint, remedy)
    return {
        key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")
    }


def _network(settings: Settings) -> Network:
    return Network(settings.method, settings.backbone, settings.views.size, settings.width, settings.stem)


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
    if mean in state and bias in state and state[mean].shape == state[bias].shape:
        state[mean] = state[mean] - state.pop(bias)


def _settings(
    state: State, metadata: dict[str, str], backbone: str | None, image_size: int | None, method: str | None
) -> Settings:
    """Infer missing settings from tensor shapes and metadata. Raises RunError or SettingsError."""
    own = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    resnet = find_resnet(own)
    name = backbone or metadata.get("backbone") or (resnet and resnet.name) or metadata.get("arch")
    if name is None:
        raise RunError("the backbone is not a plain ResNet: specify its timm name with --backbone")
    method = method or metadata.get("method") or "simsiam"
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise SettingsError(f"unknown method '{method}' in the checkpoint's metadata (methods: {known})")
    first = own.get("conv1.weight")
    is_resnet = name.startswith(("resnet", "resnext", "wide_resnet"))
    small = is_resnet and first is not None and tuple(first.shape[2:]) == (3, 3)
    width = resnet.width if is_resnet and resnet is not None else 1.0
    stated = _number(metadata, "image_size", MAX_IMAGE_SIZE)
    size = image_size or stated or _vit_size(own) or (32 if small else 224)
    return Settings(
        data=metadata.get("data", "unknown"),
        backbone=name,
        width=_number(metadata, "width", _MAX_WIDTH) or width,
        stem="small" if small else "standard",
        views=ViewSettings(size=int(size)),
        method=_heads(state, METHODS[method]),
    )


def _number(metadata: dict[str, str], name: str, limit: float) -> float | None:
    """Return a number in the metadata, or None if it is missing. Raises RunError outside (0, limit]."""
    text = metadata.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= limit:
        raise RunError(
            f"the checkpoint's metadata is corrupt: {name} must lie in (0, {limit:g}], got {text!r}"
        )
    return value


def _vit_size(backbone: State) -> int | None:
    """Return the image size of a Vision Transformer, from its position embeddings (1, tokens, D)."""
    positions, patches = backbone.get("pos_embed"), backbone.get("patch_embed.proj.weight")
    if positions is None or patches is None or positions.dim() != 3 or patches.dim() != 4:
        return None
    tokens = positions.shape[1] - ("cls_token" in backbone) - ("dist_token" in backbone)
    side = math.isqrt(max(tokens, 0))
    return side * int(patches.shape[-1]) if side * side == tokens else None


def _heads(state: State, method: Method) -> Method:
    """Return `method` with the head depths and widths inferred from `state`.

    A projector that is larger than Siam's may be is ignored.
    """
    projector = _linear_shapes(state, "projector")
    if not projector or len(projector) > _MAX_LAYERS or not all(1 <= out <= _MAX_DIM for out, _ in projector):
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
    if predictor and 1 <= predictor[0][0] <= _MAX_DIM:
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


def _fitting(found: Translation, expected: Network, checkpoint: Path, remedy: str) -> tuple[State, list[str]]:
    """Return the tensors that `expected` has a place for, and the checkpoint keys that were left out.

    A head that differs from Siam's is left out. remedy: end of the message if the backbone does not fit.
    Raises RunError if the backbone is incomplete or another one, or if a value is not finite.
    """
    own = expected.state_dict()
    if not _has(found.state, "backbone"):
        raise RunError(f"{checkpoint} has no backbone weights")
    given = _as_in_timm(_part(found.state, "backbone"), expected.backbone)
    _require_backbone(given, _part(own, "backbone"), checkpoint, remedy)
    state = {key: value for key, value in given.items() if key in own}
    for part in _HEADS:
        head, needed = _part(found.state, part), _part(own, part)
        if _matches(head, needed) and (part == "projector" or _has(state, "projector")):
            state |= head
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RunError(
                f"{checkpoint} is corrupt: {found.origins.get(key, key)} has NaN or infinite values"
            )
    used = {value.data_ptr() for value in state.values()}  # timm may have reshaped a tensor
    unused = [
        found.origins[k]
        for k, value in found.state.items()
        if k not in state and value.data_ptr() not in used
    ]
    return state, [*found.left_out, *unused]


def _part(state: State, part: str) -> State:
    return {key: value for key, value in state.items() if key.startswith(f"{part}.")}


def _matches(head: State, needed: State) -> bool:
    """Return True if a head has the keys and shapes of Siam's; the counters of BN may be missing."""
    required = {key for key in needed if not key.endswith("num_batches_tracked")}
    return required <= set(head) <= set(needed) and all(v.shape == needed[k].shape for k, v in head.items())


def _as_in_timm(given: State, backbone: nn.Module) -> State:
    """Return the backbone's tensors as its module in timm converts them: other names, another image size."""
    if _matches(given, {f"backbone.{key}": value for key, value in backbone.state_dict().items()}):
        return given
    convert = getattr(importlib.import_module(type(backbone).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return given
    bare = {key.removeprefix("backbone."): value for key, value in given.items()}
    try:
        converted = convert(bare, backbone)
    except (KeyError, RuntimeError, ValueError, IndexError, AttributeError, AssertionError, TypeError):
        return given  # another model's: what is missing is said by name
    return {f"backbone.{key}": value for key, value in converted.items()}


def _require_backbone(given: State, needed: State, checkpoint: Path, remedy: str) -> None:
    """Raise RunError if keys of the backbone are missing, have other shapes, or belong to a larger one.

    A larger one has more blocks; other keys without a place, such as a decoder's, are no harm.
    """
    stages = {key.split(".")[1] for key in needed if key.count(".") > 2}  # layer1, blocks, ...
    problems = {
        "missing keys": [k for k in needed if k not in given and not k.endswith("num_batches_tracked")],
        "unexpected keys": [k for k in given if k not in needed and k.split(".")[1] in stages],
        "mismatched shapes": [k for k, v in given.items() if k in needed and v.shape != needed[k].shape],
    }
    for problem, keys in problems.items():
        if keys:
            named = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise RunError(f"{checkpoint} has {problem}: {named}; {remedy}")
