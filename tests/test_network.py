"""The network: shapes, the published heads, the stem, and the outputs of `SIMSIAM`."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import siam
from siam.errors import SettingsError
from siam.network import Network
from siam.parts.backbone import build_backbone
from siam.parts.heads import build_predictor, build_projector

TINY = replace(siam.SIMSIAM, projector_layers=2, projector_hidden=24, dim=16, predictor_hidden=4)


def kinds(module):
    return [type(layer).__name__ for layer in module]


def test_heads_are_as_published():
    """Sec. 3: projector 2048-2048-2048 with BN after each fc, no ReLU at the end; predictor 2048-512-2048."""
    projector = build_projector(2048, siam.SIMSIAM)
    assert kinds(projector) == [*["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear", "BatchNorm1d"]
    assert [layer.weight.shape for layer in projector if isinstance(layer, nn.Linear)] == [(2048, 2048)] * 3
    assert projector[-1].affine is False
    predictor = build_predictor(siam.SIMSIAM)
    assert kinds(predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert predictor[0].weight.shape == (512, 2048)
    assert predictor[3].weight.shape == (2048, 512)
    assert predictor[3].bias is not None


@pytest.mark.parametrize(
    ("batch_norm", "projector_bn", "predictor_bn"),
    [("none", 0, 0), ("hidden", 2, 1), ("default", 3, 1), ("all", 3, 2)],
)
def test_batch_norm_as_in_table_3(batch_norm, projector_bn, predictor_bn):
    method = replace(siam.SIMSIAM, batch_norm=batch_norm, dim=16, projector_hidden=16, predictor_hidden=4)
    assert kinds(build_projector(8, method)).count("BatchNorm1d") == projector_bn
    assert kinds(build_predictor(method)).count("BatchNorm1d") == predictor_bn


@pytest.mark.parametrize(("image_size", "stem", "grid"), [(32, "auto", 4), (64, "auto", 2), (64, "small", 8)])
def test_small_images_get_the_small_stem(image_size, stem, grid):
    backbone = build_backbone("resnet18", image_size, stem=stem)
    features = backbone.forward_features(torch.zeros(1, 3, image_size, image_size))
    assert features.shape == (1, 512, grid, grid)


def test_residual_branches_start_at_zero():
    backbone = build_backbone("resnet18", 32)
    assert all(
        block.bn2.weight.abs().sum() == 0 for stage in (backbone.layer1, backbone.layer4) for block in stage
    )


def test_any_timm_model_can_be_the_backbone():
    network = Network(TINY, "mobilenetv3_small_050", image_size=32)
    p1, _, _, z2 = network(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32))
    assert p1.shape == z2.shape == (4, 16)


def test_forward_equals_the_papers_pseudocode():
    """p = h(f(x)) and z = f(x), each view through f on its own so that BN statistics are per view."""
    torch.manual_seed(0)
    network = Network(TINY, "resnet18", image_size=16, width=0.125)
    x1, x2 = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16) + 1
    p1, p2, z1, z2 = network(x1, x2)
    for x, p, z in ((x1, p1, z1), (x2, p2, z2)):
        f = network.projector(network.backbone(x))
        assert torch.allclose(z, f)
        assert torch.allclose(p, network.predictor(f))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: build_backbone("resnet19", 32), "did you mean resnet1"),
        (lambda: build_backbone("mobilenetv3_small_050", 32, width=0.5), "is supported only for ResNets"),
        (lambda: build_backbone("mobilenetv3_small_050", 32, stem="small"), "is supported only for ResNets"),
        (lambda: replace(siam.BYOL, momentum=1.5), r"momentum must lie in \[0, 1\]"),
        (lambda: replace(siam.SIMCLR, temperature=0), "temperature must be above 0"),
        (lambda: replace(siam.SWAV, prototypes=1), "at least 2 clusters"),
        (lambda: replace(siam.SIMSIAM, dim=0), "dim must be at least 1"),
    ],
)
def test_invalid_settings_fail_when_built_and_are_named(build, says):
    with pytest.raises(SettingsError, match=says):
        build()
