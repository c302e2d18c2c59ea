"""Map the keys of other projects' checkpoints to `siam.Network` keys.

A layout has a regular expression that identifies it, and a map of key prefixes.
Backbone keys follow torchvision and timm, which agree for ResNets; only Detectron2 and
lightly use others.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
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
    prefix: str = ""
    """Prefix of all keys of the network, such as Lightning's 'model.'."""


@dataclass(frozen=True)
class Translation:
    """A checkpoint's tensors under `siam.Network` keys."""

    state: State
    origins: dict[str, str]
    """`siam.Network` key -> checkpoint key."""
    left_out: list[str]
    """Checkpoint keys without a counterpart."""


_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
"""Names that wrappers of modules add to keys: DataParallel, torch.compile, FSDP and Lightning Fabric."""

_MAX_PREFIX = 4  # names in a prefix


def _from_sequential(key: str) -> str:
    """Replace the index in nn.Sequential(*resnet.children()), which lightly uses, with a layer name."""
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


def _from_transformers_resnet(key: str) -> str:
    """Convert a key of Transformers' ResNet to timm's."""
    key = key.replace("embedder.embedder.convolution", "conv1").replace(
        "embedder.embedder.normalization", "bn1"
    )
    key = re.sub(r"^encoder\.stages\.(\d+)\.layers\.", lambda found: f"layer{int(found[1]) + 1}.", key)
    key = key.replace("shortcut.convolution", "downsample.0").replace(
        "shortcut.normalization", "downsample.1"
    )
    number = re.search(r"\.layer\.(\d+)\.", key)
    if number is None:
        return key
    one = int(number[1]) + 1
    key = key.replace(f"{number[0]}convolution", f".conv{one}")
    return key.replace(f"{number[0]}normalization", f".bn{one}")


_TRANSFORMERS_VIT = {
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^embeddings\.distillation_token$": "dist_token",
    r"^embeddings\.": "",
    r"^encoder\.layer\.": "blocks.",
    r"\.attention\.attention\.(query|key|value)\.": r".attn.\1.",
    r"\.attention\.output\.dense\.": ".attn.proj.",
    r"\.intermediate\.dense\.": ".mlp.fc1.",
    r"\.output\.dense\.": ".mlp.fc2.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"^layernorm\.": "norm.",
    r"\.layer_scale(\d)\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.w12.",
    r"\.mlp\.weights_out\.": ".mlp.w3.",
}
"""Keys of Transformers' ViT, DeiT and DINOv2 -> timm's."""


def _from_transformers_vit(key: str) -> str:
    for old, new in _TRANSFORMERS_VIT.items():
        key = re.sub(old, new, key)
    return key


def _from_vit(key: str) -> str:
    """Drop the chunk from a key of DINOv2's training code, which numbers blocks in chunks: blocks.0.3."""
    return re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key)


_HEADS = {"projector.": "projector.", "predictor.": "predictor."}

_PLAIN = r"conv1\.|layer1\.|patch_embed\.|stem|blocks\.|features\.|stages|downsample_layers\."

LAYOUTS = (
    Layout("siam", rf"backbone\.(?!stem\.conv1\.)({_PLAIN})|backbone\..*blocks|target_encoder\.", {
        "backbone.": "backbone.", **_HEADS, "target_encoder.": "target_encoder.",
    }, rename=_from_vit),
    Layout("SimSiam (released)", r"encoder\.fc\.[67]\.|predictor\.0\.", {
        "encoder.fc.": "projector.", "encoder.": "backbone.", "predictor.": "predictor.",
    }, method="simsiam"),
    Layout("MoCo (mmselfsup)", r"encoder_q\.0\.", {"encoder_q.0.": "backbone."}, method="moco_v2"),
    Layout("MoCo v2 (released)", r"encoder_q\.", {
        "encoder_q.fc.": "projector.", "encoder_q.": "backbone.",
        "encoder_k.fc.": "target_encoder.encoder.1.", "encoder_k.": "target_encoder.encoder.0.",
    }, method="moco_v2"),
    Layout("lightly", r"backbone\.0\.", {
        "backbone.": "backbone.", "projection_head.layers.": "projector.",
        "prediction_head.layers.": "predictor.",
    }, rename=_from_sequential),
    Layout("CLIP", r"visual\.(class_embedding|conv1\.)", {"visual.": "backbone.visual."}),
    Layout("ResNet in nn.Sequential", r"4\.0\.conv1\.", {"": "backbone."}, rename=_from_sequential),
    Layout("Transformers ResNet", r"embedder\.embedder\.", {
        "": "backbone.",
    }, rename=_from_transformers_resnet),
    Layout("Transformers ViT", r"embeddings\.patch_embeddings\.", {
        "": "backbone.",
    }, rename=_from_transformers_vit),
    Layout("solo-learn (backbone named encoder)", r"encoder\.(?!layers?\.)", {
        "encoder.": "backbone.", **_HEADS,
    }, rename=_from_vit),
    Layout("Detectron2", r"stem\.conv1\.|res2\.", {"": "backbone."}, rename=_from_detectron2),
    Layout("torchvision or timm", _PLAIN, {"": "backbone."}, rename=_from_vit),
)  # fmt: skip
"""Layouts in matching order. Newer solo-learn checkpoints match the siam layout."""


def unwrap(key: str) -> str:
    """Remove the names that wrappers of modules add: module._orig_mod.conv1.weight -> conv1.weight."""
    return _WRAPPERS.sub("", key)


def recognize(keys: list[str]) -> Layout:
    """Return the first layout whose marker matches a key, below a prefix if it matches none as they are.

    Raises RunError if no layout matches.
    """
    bare = [unwrap(key) for key in keys]
    for prefix in _prefixes(bare):
        inner = [key.removeprefix(prefix) for key in bare if key.startswith(prefix)]
        for layout in LAYOUTS:
            if any(re.match(layout.marker, key) for key in inner):
                return replace(layout, prefix=prefix)
    first = ", ".join(keys[:4]) or "none"
    raise RunError(f"unknown checkpoint format: keys match no known layout (first keys: {first})")


def _prefixes(keys: list[str]) -> Iterator[str]:
    """Yield "", then prefixes of one name, two names and so on; a teacher's first, then the most common."""
    yield ""
    for count in range(1, _MAX_PREFIX + 1):
        split = (key.split(".", count) for key in keys)
        found = Counter(".".join(parts[:count]) + "." for parts in split if len(parts) > count)
        yield from sorted(found, key=lambda prefix: ("teacher" not in prefix, -found[prefix], prefix))[:8]


def translate(state: Mapping[str, Tensor], layout: Layout) -> Translation:
    """Rename keys to `siam.Network` keys. Classifiers are left out."""
    found: State = {}
    origins: dict[str, str] = {}
    left: list[str] = []
    for key, value in state.items():
        bare = unwrap(key)
        below = bare.removeprefix(layout.prefix)
        prefix = next((p for p in sorted(layout.parts, key=len, reverse=True) if below.startswith(p)), None)
        if prefix is None or not bare.startswith(layout.prefix):
            left.append(key)
            continue
        here, inner = layout.parts[prefix], below[len(prefix) :]
        if here == "backbone.":
            inner = layout.rename(inner)
            if re.match(r"(fc|head|heads|classifier|linear)\.", inner) and not inner.startswith("head.norm"):
                left.append(key)
                continue
        found[here + inner] = value
        origins[here + inner] = key
    _join_attention(found, origins)
    return Translation(found, origins, left)


def _join_attention(state: State, origins: dict[str, str]) -> None:
    """Join queries, keys and values (D, D) of Transformers to timm's one matrix (3D, D), in place."""
    for key in [key for key in state if ".attn.query." in key]:
        names = [key.replace(".attn.query.", f".attn.{name}.") for name in ("query", "key", "value")]
        joined = key.replace(".attn.query.", ".attn.qkv.")
        if all(name in state and state[name].shape == state[key].shape != () for name in names):
            state[joined] = torch.cat([state.pop(name) for name in names])
            origins[joined] = origins[key]
