"""Tell which ResNet a state dict belongs to, from its keys and shapes."""

import re
from typing import NamedTuple

import timm

from siam.convert.layouts import State

_DEPTHS = {
    (False, (1, 1, 1, 1)): 10,
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (1, 1, 1, 1)): 14,
    (True, (2, 2, 2, 2)): 26,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
    (True, (3, 24, 36, 3)): 200,
}
"""Depths by block type (True for bottleneck) and number of blocks per stage."""

_EXTRA = re.compile(r"layer\d\.\d+\.(se|conv_pool|bn4|attn|eca|gn)\b|layer\d\.\d+\.conv1\.\d")
"""Keys of ResNet variants that their shapes do not tell apart."""


class ResNet(NamedTuple):
    """A ResNet of timm: name, and multiplier of its channels."""

    name: str
    width: float


def find_resnet(backbone: State) -> ResNet | None:
    """Return the ResNet with these keys and shapes; None if it is none that timm knows.

    Grouped and wide ones have more channels in the 3x3 convolutions than their blocks' outputs allow for;
    a narrow run of Siam has fewer in both.
    """
    stages: list[set[str]] = [set(), set(), set(), set()]
    for key in backbone:
        found = re.match(r"layer([1-4])\.(\d+)\.", key)
        if found:
            stages[int(found[1]) - 1].add(found[2])
    bottleneck = "layer1.0.conv3.weight" in backbone
    depth = _DEPTHS.get((bottleneck, tuple(map(len, stages))))  # type: ignore[arg-type]
    inner = backbone.get("layer1.0.conv2.weight")
    outer = backbone.get("layer4.0.conv3.weight" if bottleneck else "layer4.0.conv2.weight")
    if depth is None or inner is None or outer is None or any(map(_EXTRA.match, backbone)):
        return None
    if not inner.dim() == outer.dim() == 4:
        return None
    width = outer.shape[0] / (2048 if bottleneck else 512)
    groups = inner.shape[0] // max(1, inner.shape[1])
    variant = _variant(backbone)
    if groups > 1:
        name = f"resnext{depth}{variant}_{groups}x{inner.shape[1]}d"
    elif bottleneck and inner.shape[0] > 96 * width:  # 128 instead of 64
        name = f"wide_resnet{depth}{variant}_2"
    else:
        name = f"resnet{depth}{variant}"
    return ResNet(name, width) if timm.is_model(name) else None


def _variant(backbone: State) -> str:
    """Return the letter in the name of a variant, "" for the ResNets of the paper.

    c, d, s and t have a stem of three convolutions; d and t pool before they downsample, so that the
    convolution is the second layer. With the small-image stem, runs have one convolution in place of three.
    """
    pooled = any(key.endswith("downsample.1.weight") and value.dim() == 4 for key, value in backbone.items())
    first, second = backbone.get("conv1.0.weight"), backbone.get("conv1.3.weight")
    if first is None or second is None or not first.dim() == second.dim() == 4:
        tiered = "layer1.1.conv1.weight" not in backbone  # the smallest, with 10 and 14 layers
        return ("t" if tiered else "d") if pooled else ""
    if pooled:
        return "d" if first.shape[0] == second.shape[0] else "t"
    return "c" if first.shape[0] == 32 else "s"
