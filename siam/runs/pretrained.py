"""Weights that exist: timm models from the Hugging Face hub, a local folder or a file.

They are given by name wherever an encoder is: `timm:resnet18.a1_in1k` (a model of timm's registry),
`hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION` (any other timm model on the hub), a folder with
config.json and model.safetensors, or a .safetensors file. Files are downloaded through huggingface_hub, with
its cache, HF_ENDPOINT and HF_HUB_OFFLINE. Only safetensors are read, because a pickle can execute code.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from siam.data.augment import IMAGENET_MEAN, IMAGENET_STD
from siam.data.geometry import CenterCrop, center_crop
from siam.errors import RunError, SettingsError, did_you_mean, first_line
from siam.parts.backbone import build_backbone
from siam.runs.folder import SETTINGS
from siam.runs.hub import download

TIMM, HUB, LOCAL = "timm:", "hf-hub:", "local-dir:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"

_MAX_CONFIG = 2**24
"""Largest config.json in bytes: those of timm list up to 21,841 class names."""
_MAX_SIDE = 8192
_SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
"""Keys of timm's pretrained_cfg that say where to load from; only safetensors found here are loaded."""

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Pretrained:
    """A network whose weights exist: its architecture, its weights, and the images that it expects."""

    name: str
    """As the user gave it."""
    file: Path
    """The weights."""
    backbone: str
    """timm's name of the architecture."""
    crop: CenterCrop
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    config: Mapping[str, Any] | None = None
    """timm's pretrained_cfg; None for files that Siam wrote."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments besides the architecture that timm needs to build the network (model_args)."""
    width: float = 1.0
    stem: Any = "standard"

    @property
    def fixed_size(self) -> bool:
        """True if the network takes images of one size only, to which its weights must be adapted."""
        return self.config is not None and bool(self.config.get("fixed_input_size"))


def is_pretrained(name: str | Path) -> bool:
    """Return whether `name` refers to weights that exist rather than to a run folder."""
    if str(name).startswith((TIMM, HUB, LOCAL)):
        return True
    path = Path(name).expanduser()
    if path.is_dir():
        return not (path / SETTINGS).exists() and any((path / file).exists() for file in (CONFIG, WEIGHTS))
    return path.suffix == ".safetensors" and path.is_file() and not (path.parent / SETTINGS).exists()


def find_pretrained(name: str | Path) -> Pretrained:
    """Find, and if needed download, the network that `name` refers to.

    Raises SettingsError for an unknown name, and RunError if its files cannot be had or read.
    """
    given = str(name).removeprefix(TIMM)
    if given.startswith(HUB):
        repo = given.removeprefix(HUB)
        return _configured(str(name), download(repo, CONFIG), lambda: download(repo, WEIGHTS))
    if str(name).startswith(TIMM) and not given.startswith(LOCAL):
        return _registered(str(name), given)
    path = Path(given.removeprefix(LOCAL)).expanduser()
    config = (path if path.is_dir() else path.parent) / CONFIG
    file = path / WEIGHTS if path.is_dir() else path
    if not path.is_dir() and "backbone" in (metadata := _metadata(path)):
        return _of_siam(str(name), path, metadata)
    if not config.is_file():
        raise RunError(
            f"{path} does not say which network its weights belong to: put timm's {CONFIG} next to them, or "
            f"run siam import {path} --backbone NAME --out RUN"
        )
    if not file.is_file():
        raise RunError(f"{path} has no {WEIGHTS}: other files are read by siam import {path} --out RUN")
    return _configured(str(name), config, lambda: file)


def build_pretrained(found: Pretrained) -> nn.Module:
    """Build the network with its weights and without its classifier: (B, 3, S, S) -> (B, D).

    The images are normalized with its own mean and standard deviation. Weights for another size than
    `found.crop.size` are adapted. Raises RunError if the weights do not fit the network.
    """
    model: nn.Module
    try:
        if found.config is None:
            model = build_backbone(found.backbone, found.crop.size, found.width, found.stem)
            model.load_state_dict(load_file(found.file))
        else:
            _require_room(found)
            model = timm.create_model(
                found.backbone, pretrained=True, pretrained_cfg_overlay={"file": str(found.file)},
                **_options(found),
            )  # fmt: skip
            # Built with its classifier, so that timm requires each of the weights; removed afterwards.
            model.reset_classifier(0)  # type: ignore[operator]
    except Exception as error:  # timm, torch and safetensors raise errors of any kind for damaged files
        reason = first_line(error, 200)
        raise RunError(f"the weights of {found.name} do not fit {found.backbone}: {reason}") from None
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RunError(f"the weights of {found.name} are corrupt: {key} has NaN or infinite values")
    return model


def build_untrained(found: Pretrained) -> nn.Module:
    """Build the network with random weights instead of its own. Raises RunError if that is impossible."""
    if found.config is None:
        return build_backbone(found.backbone, found.crop.size, found.width, found.stem)
    try:
        model: nn.Module = timm.create_model(found.backbone, **{**_options(found), "num_classes": 0})
    except Exception as error:  # as above
        raise RunError(f"{found.name} cannot be built: {first_line(error, 200)}") from None
    return model


def _require_room(found: Pretrained) -> None:
    """Raise ValueError if the network has more values than the file has bytes, before it takes up memory."""
    # Not every network can be built on the meta device.
    with torch.device("meta"), suppress(NotImplementedError, RuntimeError):
        model: nn.Module = timm.create_model(found.backbone, **_options(found))
        values = sum(value.numel() for value in model.state_dict().values())
        size = found.file.stat().st_size
        if values > size:
            raise ValueError(f"it has {values:,} values, and the file {size:,} bytes")


class Renormalized(nn.Module):
    """A network behind a change of normalization: takes the same images as every encoder of Siam's.

    Maps images (B, 3, S, S), normalized with ImageNet's mean and standard deviation, to features (B, D).
    Raises RunError if the network does not give one vector per image.
    """

    def __init__(self, model: nn.Module, found: Pretrained) -> None:
        super().__init__()
        self.model = model
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD, found.mean, found.std)
        )
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)
        self.scale: Tensor
        self.shift: Tensor
        self.num_features = _features(model.eval(), found)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.model(x * self.scale + self.shift)
        return features


@torch.no_grad()
def _features(model: nn.Module, found: Pretrained) -> int:
    """Return D, found by passing one image through the network. Raises RunError."""
    size = found.crop.size
    try:
        features = model(torch.zeros(1, 3, size, size))
    except Exception as error:  # an architecture may reject this size in any way
        raise RunError(
            f"{found.name} cannot take images of {size} x {size} pixels: {first_line(error)}"
        ) from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise RunError(f"{found.name} does not give one vector per image: choose another model")
    return int(features.shape[1])


def _registered(name: str, identifier: str) -> Pretrained:
    """Return a model of timm's registry, whose weights are on the hub."""
    architecture, _, tag = identifier.partition(".")
    if "/" in identifier:
        raise SettingsError(f"timm has no model '{identifier}': for one of the hub, write {HUB}{identifier}")
    if not timm.is_model(architecture):
        known = [*timm.list_pretrained(), *timm.list_models()]
        hint = did_you_mean(identifier, known) or "; timm.list_pretrained() in Python lists them"
        raise SettingsError(f"timm has no model '{identifier}'{hint}")
    try:
        found = timm.get_pretrained_cfg(identifier, allow_unregistered=False)
    except RuntimeError:  # the tag is unknown
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        choice = f"choose {', '.join(tags)}" if tags else "it has none at all"
        raise SettingsError(f"timm has no weights '{tag}' for {architecture}: {choice}") from None
    if found is None or not found.hf_hub_id:
        raise SettingsError(f"timm has no weights for {identifier} on the hub: choose another model")
    config = found.to_dict()
    return _prepared(name, architecture, config, {}, download(found.hf_hub_id, WEIGHTS))


def _configured(name: str, config: Path, weights: Callable[[], Path]) -> Pretrained:
    """Return the network that a config.json of timm describes. weights: returns the file of the weights."""
    plain = _read_config(config)
    nested = plain.get("pretrained_cfg")
    described = dict(nested if isinstance(nested, dict) else plain)
    architecture = plain.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise RunError(f"the {CONFIG} of {name} does not name an architecture of timm, but {architecture!r}")
    if "num_classes" in plain:
        described["num_classes"] = plain["num_classes"]
    known = timm.models.PretrainedCfg.__dataclass_fields__
    described = {key: value for key, value in described.items() if key in known}
    arguments = plain.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    return _prepared(name, architecture, described, arguments, weights())


def _prepared(
    name: str, architecture: str, config: dict[str, Any], arguments: dict[str, Any], file: Path
) -> Pretrained:
    """Check what a pretrained_cfg says about images. Raises RunError."""
    channels, height, width = _numbers(config.get("input_size", (3, 224, 224)), name, "input_size")
    if channels != 3 or height != width or not 1 <= width <= _MAX_SIDE or width != int(width):
        raise RunError(f"{name} takes inputs of {channels:g} x {height:g} x {width:g}: Siam's are square RGB")
    size = int(width)
    cropped = config.get("crop_pct", 0.875)
    if not isinstance(cropped, int | float) or not 0.1 <= cropped <= 2:
        raise RunError(f"the {CONFIG} of {name} is corrupt: crop_pct is {cropped!r}")
    mean = _numbers(config.get("mean", IMAGENET_MEAN), name, "mean")
    std = _numbers(config.get("std", IMAGENET_STD), name, "std")
    if min(std) <= 0:
        raise RunError(f"the {CONFIG} of {name} is corrupt: std is {list(std)}")
    crop = CenterCrop(size, max(size, math.floor(size / cropped)), config.get("interpolation") == "bicubic")
    own = {key: value for key, value in config.items() if key not in _SOURCES}
    return Pretrained(name, file, architecture, crop, mean, std, own, arguments)


def _of_siam(name: str, file: Path, metadata: Mapping[str, str]) -> Pretrained:
    """Return the network of a file written by `siam export --format safetensors`. Raises RunError."""
    try:
        size, width = int(metadata["image_size"]), float(metadata["width"])
        stem = metadata["stem"]
    except (KeyError, ValueError):
        raise RunError(f"{file} is corrupt: its metadata has no valid image_size, width and stem") from None
    if not (8 <= size <= _MAX_SIDE and 0 < width <= 16 and stem in ("auto", "small", "standard")):
        raise RunError(f"{file} is corrupt: its metadata has no valid image_size, width and stem")
    return Pretrained(name, file, metadata["backbone"], center_crop(size), width=width, stem=stem)


def _options(found: Pretrained) -> dict[str, Any]:
    """Return the arguments for timm.create_model, besides the architecture and the weights."""
    config, arguments = dict(found.config or {}), dict(found.arguments)
    arguments.pop("num_classes", None)
    if found.fixed_size:
        arguments["img_size"] = found.crop.size
    return {"pretrained_cfg": config, "num_classes": config.get("num_classes", 1000), **arguments}


def _numbers(value: Any, name: str, what: str) -> RGB:
    """Return three finite numbers. Raises RunError."""
    numbers = value if isinstance(value, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise RunError(f"the {CONFIG} of {name} is corrupt: {what} is {value!r}, not three numbers")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _read_config(file: Path) -> dict[str, Any]:
    """Read a config.json. Raises RunError."""
    try:
        if file.stat().st_size > _MAX_CONFIG:
            raise RunError(f"{file} is not a {CONFIG}: it is larger than {_MAX_CONFIG:,} bytes")
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {first_line(error)}") from None
    if not isinstance(plain, dict):
        raise RunError(f"{file} cannot be read: it is not a JSON object")
    return plain


def _metadata(file: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file. Raises RunError."""
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except Exception as error:  # corrupt bytes make safetensors raise errors of any kind
        raise RunError(f"{file} cannot be read: {first_line(error, 200)}") from None
