"""Map the keys of other projects' checkpoints to `siam.Network` keys.

A layout has a regular expression that identifies it, and a map of key prefixes.
Backbone keys follow torchvision and timm, which agree for ResNets; only Detectron2 and
lightly use others.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from siam.errors import RunError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Key format of a project's checkpoints, and its mapping to `siam.Network`."""

    name: str
    marker: str
    """Regular expression that matches the start of at least one key in this layout."""
    parts: Mapping[str, str]
    """Checkpoint key prefix -> `siam.Network` key prefix; the longest match wins."""
    method: str | None = None
    """Pretraining method, if the layout implies one."""
    rename: Callable[[str], str] = field(default=lambda key: key)
    """Function that renames a backbone key, after its prefix is removed."""


def _from_sequential(key: str) -> str:
    """Replace the nn.Sequential index in a lightly key with a layer name."""
    number, _, rest = key.partition(".")
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    return f"{names.get(number, number)}.{rest}"


def to_detectron2(key: str) -> str:
    """Convert a torchvision ResNet key to the corresponding Detectron2 key."""
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
"""Layouts in matching order. Newer solo-learn checkpoints match the siam layout."""


def recognize(keys: list[str]) -> Layout:
    """Return the first layout whose marker matches a key. Raises RunError if no layout matches."""
    bare = [key.removeprefix("module.") for key in keys]
    for layout in LAYOUTS:
        if any(re.match(layout.marker, key) for key in bare):
            return layout
    first = ", ".join(keys[:4]) or "none"
    raise RunError(f"unknown checkpoint format: keys match no known layout (first keys: {first})")


def translate(state: Mapping[str, Tensor], layout: Layout) -> tuple[State, list[str]]:
    """Rename keys to `siam.Network` keys; also return keys without a counterpart."""
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
