"""Backbones: any timm model, with an optional stem for small images in ResNets."""

from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from siam.errors import SettingsError, did_you_mean, first_line

SMALL_IMAGE = 64
"""Size in pixels below which a ResNet's standard stem (7x7 stride 2, max-pool) downsamples too much."""


def build_backbone(
    name: str, image_size: int, width: float = 1.0, stem: Literal["auto", "small", "standard"] = "auto"
) -> nn.Module:
    """Build a timm model without its classifier: (B, 3, H, W) -> (B, D), with D from `features_of`.

    width: channel multiplier for a ResNet's stages. stem: `small` is the CIFAR stem of He et al. 2016
    (3x3, stride 1, no max-pool; SimSiam App. D); `auto` uses it for ResNets on views below 64 pixels.
    Residual branches start at zero (timm's default), as in the released SimSiam.
    Raises SettingsError if timm has no such model or the model does not support an option.
    """
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models()) or "; choose a timm model, such as resnet50"
        raise SettingsError(f"unknown backbone '{name}'{hint}")

    is_resnet = name.startswith(("resnet", "resnext", "wide_resnet"))
    options: dict[str, Any] = {}
    if width != 1.0:
        if not is_resnet:
            raise SettingsError(
                f"width {width} is supported only for ResNets: set width to 1 for backbone '{name}'"
            )
        options["channels"] = tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))
        options["stem_width"] = max(4, round(32 * width))  # used by deep stems; other stems keep 64 channels
    if not is_resnet and name.startswith(("vit", "deit", "swin", "beit", "eva")):
        options["img_size"] = image_size
    backbone: nn.Module = timm.create_model(name, num_classes=0, **options)

    if stem == "small" and not is_resnet:
        raise SettingsError(
            f"stem 'small' is supported only for ResNets: set stem to auto for backbone '{name}'"
        )
    if stem == "small" or (stem == "auto" and is_resnet and image_size < SMALL_IMAGE):
        _give_small_stem(backbone)
    return backbone


def features_of(backbone: nn.Module) -> int:
    """Return D, the number of features per image."""
    return int(getattr(backbone, "head_hidden_size", backbone.num_features))  # type: ignore[arg-type]


@torch.no_grad()
def require_fit(backbone: nn.Module, name: str, image_size: int) -> None:
    """Check that the backbone maps images of this size to vectors. Raises SettingsError if it does not."""
    backbone.eval()
    try:
        shape = tuple(backbone(torch.zeros(1, 3, image_size, image_size)).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise SettingsError(
            f"backbone '{name}' does not support views of {image_size} x {image_size} pixels "
            f"({first_line(error)}): set views.size to a supported size, or choose another backbone"
        ) from None
    if shape != (1, features_of(backbone)):
        raise SettingsError(
            f"backbone '{name}' gives features of shape {shape} instead of a vector per image: choose another"
        )
    backbone.train()


def _give_small_stem(resnet: nn.Module) -> None:
    """Replace the 7x7 stride-2 convolution with a 3x3 stride-1 one, and remove the max-pool."""
    first: Tensor = next(resnet.parameters())
    channels = int(resnet.bn1.num_features)  # type: ignore[union-attr, arg-type]
    resnet.conv1 = nn.Conv2d(first.shape[1], channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()
