"""Load the encoder of a run or of weights that exist, and save that of a run."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from siam.data.geometry import CenterCrop, center_crop
from siam.errors import RunError, first_line
from siam.parts.backbone import build_backbone, features_of
from siam.parts.heads import build_projector
from siam.runs.folder import CHECKPOINT, ENCODER, NETWORK, open_run
from siam.runs.pretrained import (
    Pretrained,
    Renormalized,
    build_pretrained,
    build_untrained,
    find_pretrained,
    is_pretrained,
)
from siam.runs.tensors import load_checkpoint, safetensors_file
from siam.settings.pretraining import Settings
from siam.system.device import find_device, float32_by_default
from siam.system.files import Write, regular, write_atomically

Layer = Literal["backbone", "projector"]


class Encoder(nn.Module):
    """A backbone, optionally with its projector; maps normalized images to float32 features.

    (B, 3, H, W) -> (B, D), or (B, d) with the projector. image_size: side length of the training views, in
    pixels. crop: the part of an image to encode; default: the center, as for all encoders that Siam trains.
    features: output dimension, D or d.
    """

    def __init__(
        self,
        backbone: nn.Module,
        image_size: int,
        projector: nn.Module | None = None,
        crop: CenterCrop | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_size = image_size
        self.crop = crop or center_crop(image_size)
        self.features = features_of(backbone)
        if projector is not None:
            self.projector: nn.Module | None = projector
            last = [layer for layer in projector.modules() if isinstance(layer, nn.Linear)][-1]
            self.features = last.out_features
        else:
            self.projector = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x)
        return (out if self.projector is None else self.projector(out)).float()


@float32_by_default()
def load(run: str | Path, device: str = "cpu", layer: Layer = "backbone") -> Encoder:
    """Load an encoder in eval mode with frozen weights: `siam.load("runs/photos")`.

    run: a run folder, or weights that exist, such as `timm:resnet18.a1_in1k` (see siam/runs/pretrained.py).
    layer: output of the encoder: `backbone` for features, `projector` for z. Raises RunError if the run or
    the weights cannot be loaded, or SettingsError for an unknown name or an unavailable device.
    """
    found = find_device(device)
    if is_pretrained(run):
        if layer == "projector":
            raise RunError(f"{run} has no projector: leave out the layer, for backbone features")
        own = find_pretrained(run)
        return _pretrained_encoder(own, build_pretrained(own), found)
    opened = open_run(run)
    settings = opened.settings
    backbone = build_backbone(settings.backbone, settings.views.size, settings.width, settings.stem)
    projector = None
    if layer == "projector":
        weights = load_network(run)
        if not _submodule(weights, "projector."):
            raise RunError(f"{opened.folder} has no projector: leave out the layer, for backbone features")
        projector = build_projector(features_of(backbone), settings.method)
        load_weights(projector, _submodule(weights, "projector."), opened.folder)
        load_weights(backbone, _submodule(weights, "backbone."), opened.folder)
    else:
        file = opened.folder / ENCODER
        if not file.exists():
            raise RunError(f"{opened.folder} has no {ENCODER} yet: let the run finish its first epoch")
        load_weights(backbone, _read_safetensors(file), file)
    encoder = Encoder(backbone, settings.views.size, projector).requires_grad_(False)
    return encoder.to(found).eval()


def _pretrained_encoder(found: Pretrained, model: nn.Module, device: torch.device) -> Encoder:
    backbone = Renormalized(model, found)
    return Encoder(backbone, found.crop.size, crop=found.crop).requires_grad_(False).to(device).eval()


def digest_of(encoder: Encoder) -> str:
    """Return a hash of an encoder's weights and crop; encoders with the same give the same features."""
    found = hashlib.sha256(repr(encoder.crop).encode())
    for key, value in encoder.state_dict().items():
        found.update(key.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _submodule(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Load `weights`, which are from `source`, into `module`. Raises RunError if they do not match."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{source} cannot be read: {first_line(error, 200)}") from None


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        # The library itself opens only files whose names are UTF-8.
        return load_safetensors(regular(file).read_bytes())
    except Exception as error:
        raise RunError(f"{file} cannot be read: {first_line(error, 200)}") from None


def untrained(run: str | Path, device: str = "cpu") -> Encoder:
    """Build the encoder with random weights instead, from the run's seed, as a baseline. Raises RunError."""
    if is_pretrained(run):
        torch.manual_seed(0)
        own = find_pretrained(run)
        return _pretrained_encoder(own, build_untrained(own), torch.device(device))
    settings = open_run(run).settings
    torch.manual_seed(settings.seed)
    backbone = build_backbone(settings.backbone, settings.views.size, settings.width, settings.stem)
    return Encoder(backbone.requires_grad_(False), settings.views.size).to(device).eval()


def save_encoder(folder: Path, backbone: nn.Module, settings: Settings) -> None:
    """Write the backbone to encoder.safetensors."""
    write_atomically(folder / ENCODER, encoder_file(backbone, settings))


def encoder_file(backbone: nn.Module, settings: Settings) -> Write:
    """Return a function that writes the contents of encoder.safetensors.

    Parameter names are timm's, which for ResNets are the same as torchvision's.
    """
    from siam import __version__

    metadata = {
        "method": settings.method.name, "backbone": settings.backbone, "width": repr(settings.width),
        "stem": settings.stem, "image_size": str(settings.views.size), "siam": __version__,
    }  # fmt: skip
    return safetensors_file(backbone.state_dict(), metadata)


def save_network(folder: Path, network: nn.Module) -> None:
    """Write the network of an imported run, which has no checkpoint, to network.safetensors."""
    write_atomically(folder / NETWORK, network_file(network))


def network_file(network: nn.Module, parts: Collection[str] | None = None) -> Write:
    """Return a function that writes the contents of network.safetensors.

    parts: the parts to write, such as backbone and projector: those that the imported checkpoint had. None:
    all of them.
    """
    state = network.state_dict()
    return safetensors_file(
        {key: value for key, value in state.items() if parts is None or key.partition(".")[0] in parts}
    )


def load_network(run: str | Path) -> dict[str, Tensor]:
    """Load all weights of a run, including the heads, keyed by the parameter names of `siam.Network`.

    Raises RunError if the run has not saved any weights.
    """
    folder = open_run(run).folder
    if (folder / CHECKPOINT).exists():
        weights = load_checkpoint(folder / CHECKPOINT).get("network")
        found = list(weights.values()) if isinstance(weights, dict) else []
        if not found or not all(isinstance(one, Tensor) for one in found):
            raise RunError(f"{folder / CHECKPOINT} is not a checkpoint of Siam's: it has no network")
        return weights or {}
    if not (folder / NETWORK).exists():
        raise RunError(f"{folder} has no {CHECKPOINT} or {NETWORK} yet: let the run save a checkpoint first")
    return _read_safetensors(folder / NETWORK)
