"""Export a run's encoder to the formats of other libraries.

Each export includes metadata: method, backbone, input normalization, data and Siam
version.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from siam import __version__
from siam.convert.layouts import State, to_detectron2
from siam.convert.reading import read_tensors
from siam.data.augment import IMAGENET_MEAN, IMAGENET_STD
from siam.errors import RunError, SettingsError, did_you_mean
from siam.runs.encoder import Encoder, load
from siam.runs.folder import open_run
from siam.runs.tensors import safetensors_file, torch_file
from siam.settings.pretraining import Settings
from siam.system.files import Write, make_folder, write_together, writing

Format = Literal["torchvision", "timm", "detectron2", "onnx", "safetensors"]

_TORCHVISION = {
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
}  # fmt: skip
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "torchvision": (".pth", ".pt", ".tar", ".ckpt", ".bin"), "detectron2": (".pth", ".pkl", ".pt"),
    "onnx": (".onnx",), "safetensors": (".safetensors",), "timm": (),
}  # fmt: skip
"""Suffixes that promise a format."""
_ONNX_TOLERANCE = 1e-4


def export(run: str | Path, format: str, out: str | Path) -> dict[str, Any]:
    """Export the encoder of `run` to `out` (for timm, a folder; otherwise, a file).

    format: torchvision, timm, detectron2, onnx or safetensors. Returns a summary that
    includes the metadata. Only an earlier export is replaced. Raises SettingsError for an
    unknown format, and RunError if the run has no encoder, the format does not support
    the backbone, or the output exists or cannot be written.
    """
    if format not in get_args(Format):
        known = get_args(Format)
        raise SettingsError(
            f"unknown format '{format}'{did_you_mean(format, known)} (formats: {', '.join(known)})"
        )
    settings = open_run(run).settings
    encoder = load(run)
    state = {key: value.contiguous() for key, value in encoder.backbone.state_dict().items()}
    about = describe(settings, encoder)
    out = Path(out).expanduser()
    _check_out(out, format)
    match format:
        case "torchvision":
            _check_torchvision(settings)
            files = {out: _torch(state, about, wrap=False)}
        case "detectron2":
            _check_torchvision(settings)
            files = {out: _torch({to_detectron2(key): v for key, v in state.items()}, about, wrap=True)}
        case "timm":
            files = _timm(out, state, about, settings, encoder)
        case "onnx":
            files = {out: _onnx(encoder, about)}
        case _:
            files = {out: safetensors_file(state, about)}
    _require_replaceable(out, files)
    with writing(out), make_folder(next(iter(files)).parent):
        write_together(files)
    return {"out": str(out), "format": format, **about}


def _check_out(out: Path, format: str) -> None:
    """Raise RunError if `out` has the suffix of another format, or is a folder instead of a file."""
    other = next((name for name, suffixes in _SUFFIXES.items() if out.suffix.lower() in suffixes), format)
    if other != format and out.suffix.lower() not in _SUFFIXES[format]:
        ending = f"a name that ends in {_SUFFIXES[format][0]}" if _SUFFIXES[format] else "a folder"
        raise RunError(f"{out} is not a name for the format {format}: choose {ending}, or --format {other}")
    if out.is_dir() and format != "timm":
        raise RunError(f"{out} is a folder: specify a file, such as {out}/encoder{_SUFFIXES[format][0]}")


def _require_replaceable(out: Path, files: Iterable[Path]) -> None:
    """Raise RunError if one of `files` exists, unless `out`, which they make up, is an earlier export."""
    taken = next((file for file in files if os.path.lexists(file)), None)
    if taken is not None and not _is_export(out):
        raise RunError(
            f"{taken} exists and was not written by siam export: choose another --out, or delete it"
        )


def _is_export(out: Path) -> bool:
    """Return whether the metadata of a file or of a timm folder is that of an export."""
    if out.suffix == ".onnx":
        with suppress(Exception):  # corrupt bytes make protobuf raise errors of many kinds
            import onnx

            props = onnx.load(out, load_external_data=False).metadata_props
            return "siam" in {prop.key for prop in props}
    with suppress(RunError):
        return "features" in read_tensors(out)[1]
    return False


def describe(settings: Settings, encoder: Encoder) -> dict[str, str]:
    """Return the metadata to include in the export, as strings."""
    return {
        "method": settings.method.name,
        "backbone": settings.backbone,
        "width": repr(settings.width),
        "stem": settings.stem,
        "features": str(encoder.features),
        "image_size": str(encoder.image_size),
        "mean": " ".join(map(str, IMAGENET_MEAN)),
        "std": " ".join(map(str, IMAGENET_STD)),
        "data": Path(settings.data).name or settings.data,
        "siam": __version__,
    }


def _check_torchvision(settings: Settings) -> None:
    """Raise RunError if torchvision and Detectron2 do not support the encoder."""
    size, stem = settings.views.size, settings.stem
    if settings.backbone not in _TORCHVISION or settings.width != 1.0:
        width = "" if settings.width == 1.0 else f" with width {settings.width:g}"
        others = "timm, onnx or safetensors" if settings.width == 1.0 else "onnx or safetensors"
        raise RunError(
            f"torchvision and Detectron2 have no {settings.backbone}{width}: export as {others} instead"
        )
    if stem == "small" or (stem == "auto" and size < 64):
        raise RunError(
            "torchvision and Detectron2 do not support the small-image stem: export as onnx or "
            "safetensors instead"
        )


def _torch(state: State, about: dict[str, str], wrap: bool) -> Write:
    """Return a checkpoint that torch.load(weights_only=True) can read.

    wrap: put the tensors under 'model' and request heuristic name matching, as
    Detectron2's checkpointer expects.
    """
    contents: Any = {"model": state, "matching_heuristics": True, "__author__": "siam", "siam": about}
    if not wrap:
        contents = OrderedDict(state)  # carries metadata, like the result of Module.state_dict()
        contents._metadata = {"": {"version": 1, "siam": about}}
    return torch_file(contents)


def _timm(
    out: Path, state: State, about: dict[str, str], settings: Settings, encoder: Encoder
) -> dict[Path, Write]:
    """Return the files of a folder for timm.create_model('local-dir:OUT', num_classes=0, pretrained=True)."""
    if settings.width != 1.0 or (settings.stem == "small") or _stem_differs(settings):
        raise RunError(
            f"timm supports {settings.backbone} only with its standard width and stem: export as onnx or "
            "safetensors instead"
        )
    side = encoder.image_size
    own: Any = encoder.backbone.pretrained_cfg
    adapts = ("first_conv", "classifier", "pool_size", "fixed_input_size")  # to other channels and classes
    config = {
        "architecture": settings.backbone,
        "num_classes": 0,
        "num_features": encoder.features,
        "pretrained_cfg": {
            "input_size": [3, side, side], "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD),
            "num_classes": 0, "interpolation": "bilinear", "crop_pct": 0.875,
            **{key: own[key] for key in adapts if own.get(key) is not None},
        },
        "siam": about,
    }  # fmt: skip
    text = json.dumps(config, indent=1)
    return {
        out / "model.safetensors": safetensors_file(state, about),
        out / "config.json": lambda file: file.write(text.encode()),
    }


def _stem_differs(settings: Settings) -> bool:
    return settings.backbone.startswith("res") and settings.stem == "auto" and settings.views.size < 64


def _onnx(encoder: Encoder, about: dict[str, str]) -> Write:
    """Return an ONNX model: normalized images (batch, 3, S, S) -> features (batch, D).

    Raises RunError if the model's features differ from PyTorch's.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401, torch.onnx needs it
    except ImportError as error:
        raise RunError(f"{error.name} is not installed: pip install 'siam[onnx]'") from None
    side = encoder.image_size
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        encoder, (x,), dynamo=True, input_names=["images"], output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, about)
    contents = model.SerializeToString()
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    for images in (x, x[:1]):
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        with torch.no_grad():
            expected: Tensor = encoder(images)
        difference = float((found - expected).abs().max() / expected.abs().max())
        if difference > _ONNX_TOLERANCE:
            raise RunError(
                f"the ONNX model's features differ from PyTorch's by {difference:.1e} (relative), "
                f"more than {_ONNX_TOLERANCE:.0e}"
            )
    return lambda file: file.write(contents)
