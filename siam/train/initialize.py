"""Begin a run with the weights of another run, or with weights that exist."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from siam.data.geometry import center_crop
from siam.errors import RunError
from siam.network import Network
from siam.parts.backbone import SMALL_IMAGE, build_backbone
from siam.processes.agree import on_rank_zero
from siam.runs.checkpoint import load_init
from siam.runs.encoder import load_network
from siam.runs.folder import open_run
from siam.runs.pretrained import Renormalized, build_pretrained, find_pretrained, is_pretrained
from siam.settings.pretraining import Settings

_TOLERANCE = 1e-3
"""Largest difference between the features of the two builds of a network, relative to the largest feature."""


def init_settings(init: str, base: Settings) -> Settings:
    """Return `base` with the network of `init`, a run or weights that exist. Raises SiamError.

    A run also determines the heads if the methods match, and the size of the views. Weights that exist keep
    the views of `base`, but of 64 pixels at least, as their stem is not for small images; or their own size,
    if they take no other.
    """
    if not is_pretrained(init):
        run = open_run(init).settings
        method = run.method if run.method.name == base.method.name else base.method
        size, backbone, width, stem = run.views.size, run.backbone, run.width, run.stem
    else:
        found, method = find_pretrained(init), base.method
        own_size = found.fixed_size or found.config is None
        size = found.crop.size if own_size else max(base.views.size, SMALL_IMAGE)
        backbone, width, stem = found.backbone, found.width, found.stem
    return replace(
        base, init=init, backbone=backbone, width=width, stem=stem, method=method,
        views=replace(base.views, size=size),
    )  # fmt: skip


def initialize(settings: Settings, network: Network) -> str:
    """Load the weights that `settings.init` refers to, and return a message that names what was loaded.

    All ranks must call this function; rank 0 reads the files. Raises RunError if the weights cannot be read
    or are of another network.
    """
    read = _pretrained_weights if is_pretrained(settings.init) else _run_weights
    return load_init(settings.init, on_rank_zero(lambda: read(settings)), network)


def _run_weights(settings: Settings) -> dict[str, Tensor]:
    return load_network(settings.init)


def _pretrained_weights(settings: Settings) -> dict[str, Tensor]:
    """Return weights that exist, by the parameter names of `Network`, for the normalization of Siam's images.

    Raises RunError if Siam builds another network from the settings than the weights are of: timm has options
    for which settings.yaml has no place, such as another pooling.
    """
    size = settings.views.size
    found = replace(find_pretrained(settings.init), crop=center_crop(size))
    model = build_pretrained(found).eval()
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(settings.backbone, size, settings.width, settings.stem).eval()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = _outputs(model, x)
    first = str((found.config or {}).get("first_conv"))
    convolution = dict(model.named_modules()).get(first)
    if isinstance(convolution, nn.Conv2d) and convolution.bias is not None and convolution.padding == (0, 0):
        normalized = Renormalized(model, found)
        expected = _outputs(normalized, x)
        _fold(convolution, normalized)
    weights, own = model.state_dict(), backbone.state_dict()
    same = all(key in weights and weights[key].shape == value.shape for key, value in own.items())
    if same:
        backbone.load_state_dict({key: weights[key] for key in own})
        same = bool((_outputs(backbone, x) - expected).abs().max() <= _TOLERANCE * expected.abs().max())
    as_found = (found.backbone, found.width, found.stem)
    if not same and (settings.backbone, settings.width, settings.stem) == as_found:
        raise RunError(
            f"Siam cannot train {settings.init}: timm builds it with options that settings.yaml does not "
            "have; choose weights of the plain architecture"
        )
    return {f"backbone.{key}": value for key, value in weights.items()}


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    features: Tensor = model(x)
    return features


@torch.no_grad()
def _fold(convolution: nn.Conv2d, normalized: Renormalized) -> None:
    """Fold a change of normalization into the first convolution, in place.

    This is exact only with a bias and without padding, as in Vision Transformers; in other networks, the
    batch norm that follows adapts to the change.
    """
    weight, bias = convolution.weight, convolution.bias  # (D, 3, k, k), (D,)
    assert bias is not None
    bias += (weight * normalized.shift).sum(dim=(1, 2, 3))
    weight *= normalized.scale
