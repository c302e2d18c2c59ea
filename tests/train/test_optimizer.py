"""Learning rates: the published ones, their schedule, and the predictor's own."""

from dataclasses import replace

import pytest
import torch

from siam.methods import SIMSIAM
from siam.network import Network
from siam.settings.pretraining import OptimizerSettings
from siam.train.optimizer import build_optimizer, set_learning_rate

METHOD = replace(SIMSIAM, projector_layers=2, projector_hidden=16, dim=16, predictor_hidden=4)


def optimizer_for(settings, method=METHOD, batch_size=512):
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    return build_optimizer(settings, network, torch.nn.Identity(), batch_size), network


def rates(optimizer):
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_the_rate_is_lr_times_batch_over_256():
    optimizer, _ = optimizer_for(OptimizerSettings())
    assert rates(optimizer) == {"encoder": 0.1, "predictor": 0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_every_parameter_is_in_one_group():
    optimizer, network = optimizer_for(OptimizerSettings())
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (25, 0.8535534), (50, 0.5), (100, 0.0)])
def test_cosine_decay_but_not_of_the_predictor(epoch, share):
    settings = OptimizerSettings()
    optimizer, _ = optimizer_for(settings)
    assert set_learning_rate(optimizer, settings, epoch, 100) == pytest.approx(0.1 * share, abs=1e-8)
    assert rates(optimizer)["predictor"] == pytest.approx(0.1)
    decayed = replace(settings, predictor_lr="cosine")
    set_learning_rate(optimizer, decayed, epoch, 100)
    assert rates(optimizer)["predictor"] == pytest.approx(0.1 * share, abs=1e-8)


def test_warmup_rises_from_zero_and_the_cosine_follows():
    settings = OptimizerSettings(warmup_epochs=10)
    optimizer, _ = optimizer_for(settings)
    assert set_learning_rate(optimizer, settings, 0, 110) == 0
    assert set_learning_rate(optimizer, settings, 5, 110) == pytest.approx(0.05)
    assert set_learning_rate(optimizer, settings, 60, 110) == pytest.approx(0.05)


def test_a_fixed_predictor_is_not_trained():
    optimizer, _ = optimizer_for(OptimizerSettings(), replace(METHOD, predictor="fixed"))
    assert rates(optimizer) == {"encoder": 0.1}


def test_lars_scales_weights_by_their_norm_but_neither_biases_nor_batch_norm():
    """You et al. 2017: a first step of lr x 0.001 |w| / (|g| + wd |w|) x (g + wd w)."""
    optimizer, network = optimizer_for(OptimizerSettings(name="lars", weight_decay=0.01))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight, scale = network.backbone.conv1.weight, network.backbone.bn1.weight
    w, s = weight.detach().clone(), scale.detach().clone()
    g = torch.ones_like(w)
    optimizer.step()
    trust = 0.001 * w.norm() / (g.norm() + 0.01 * w.norm())
    assert torch.allclose(w - weight, 0.1 * trust * (g + 0.01 * w), rtol=1e-4, atol=1e-7)
    assert torch.allclose(s - scale, torch.full_like(s, 0.1))
