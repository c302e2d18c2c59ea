"""How other projects name the parts of a network, and what those are here.

A layout says by which keys it is recognised and which prefix becomes which part. Inside the backbone the
names are torchvision's and timm's, which agree for ResNets; only Detectron2 and lightly rename there.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from siam.errors import RunError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Prefixes of one project's keys, and the parts of `siam.Network` that they hold."""

    name: str
    marker: str
    """A regular expression that some key of such a checkpoint matches at its beginning."""
    parts: Mapping[str, str]
    """Prefix there -> prefix here. A longer prefix goes before a shorter one."""
    method: str | None = None
    """The method that such a checkpoint comes from, where its keys tell."""
    rename: Callable[[str], str] = field(default=lambda key: key)
    """Of keys within the backbone."""


def _from_sequential(key: str) -> str:
    """lightly keeps a ResNet as nn.Sequential of its children: 0 conv1, 1 bn1, 4 ... 7 layer1 ... layer4."""
    number, _, rest = key.partition(".")
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    return f"{names.get(number, number)}.{rest}"


def to_detectron2(key: str) -> str:
    """layer1.0.bn2.weight -> res2.0.conv2.norm.weight: as Detectron2's R50 loaders match them."""
    key = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", key)
    key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    key = re.sub(r"\bbn(\d)", r"conv\1.norm", key)
    return key if key.startswith("res") else f"stem.{key}"


def _from_detectron2(key: str) -> str:
    key = key.removeprefix("stem.")
    key = re.sub(r"^res(\d)", lambda found: f"layer{int(found[1]) - 1}", key)
    key = key.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
    return re.sub(r"\bconv(\d)\.norm", r"bn\1", key)


_HEADS = {"projector.": "projector.", "predictor.": "predictor."}

LAYOUTS = (
    Layout("siam", r"backbone\.conv1\.|backbone\..*blocks|target_encoder\.", {
        "backbone.": "backbone.", **_HEADS, "target_encoder.": "target_encoder.",
    }),
    Layout("SimSiam (released)", r"(module\.)?encoder\.fc\.[67]\.|(module\.)?predictor\.0\.", {
        "encoder.fc.": "projector.", "encoder.": "backbone.", "predictor.": "predictor.",
    }, method="simsiam"),
    Layout("MoCo v2 (released)", r"(module\.)?encoder_q\.", {
        "encoder_q.fc.": "projector.", "encoder_q.": "backbone.",
        "encoder_k.fc.": "target_encoder.encoder.1.", "encoder_k.": "target_encoder.encoder.0.",
    }, method="moco_v2"),
    Layout("lightly", r"backbone\.0\.", {
        "backbone.": "backbone.", "projection_head.layers.": "projector.",
        "prediction_head.layers.": "predictor.",
    }, rename=_from_sequential),
    Layout("solo-learn (backbone named encoder)", r"encoder\.", {"encoder.": "backbone.", **_HEADS}),
    Layout("Detectron2", r"stem\.conv1\.|res2\.", {"": "backbone."}, rename=_from_detectron2),
    Layout("torchvision or timm", r"conv1\.|layer1\.|patch_embed\.|stem|blocks\.|features\.|stages", {
        "": "backbone.",
    }),
)  # fmt: skip
"""In the order in which they are tried. solo-learn's newer checkpoints are named as here."""


def recognize(keys: list[str]) -> Layout:
    """The first layout that some key matches. Raises RunError, with some keys, when none does."""
    bare = [key.removeprefix("module.") for key in keys]
    for layout in LAYOUTS:
        if any(re.match(layout.marker, key) for key in bare):
            return layout
    some = ", ".join(keys[:4]) or "none at all"
    raise RunError(f"these weights are of no known layout; their keys begin: {some}")


def translate(state: Mapping[str, Tensor], layout: Layout) -> tuple[State, list[str]]:
    """Keys as in `siam.Network`, and the names of the keys that have no place there."""
    found: State = {}
    left: list[str] = []
    for key, value in state.items():
        bare = key.removeprefix("module.")
        prefix = next((p for p in sorted(layout.parts, key=len, reverse=True) if bare.startswith(p)), None)
        if prefix is None:
            left.append(key)
            continue
        here, inner = layout.parts[prefix], bare[len(prefix) :]
        if here == "backbone.":
            inner = layout.rename(inner)
            if re.match(r"(fc|head|classifier|linear)\.", inner) and not inner.startswith("head.norm"):
                left.append(key)  # a classifier
                continue
        found[here + inner] = value
    return found, left
