"""Figure 3 as code: each method changes components of SimSiam, and gradient flows only where it should."""

from dataclasses import fields, replace

import pytest
import torch

import siam
from siam.methods import METHODS, SIMSIAM
from siam.network import Network
from siam.objectives import build_objective
from siam.parts.momentum import MomentumEncoder, momentum_at
from siam.settings.pretraining import OptimizerSettings
from siam.train.optimizer import build_optimizer

SMALL = {
    "projector_layers": 2, "projector_hidden": 24, "dim": 16, "predictor_hidden": 8,
    "queue": 32, "prototypes": 6,
}  # fmt: skip
BATCH = 6


def small(method, **changes):
    return replace(method, **SMALL, **changes)


def network_for(method, seed=0):
    torch.manual_seed(seed)
    return Network(method, "resnet10t", image_size=16, width=0.125)


def views(seed=0, n=BATCH):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=g), torch.randn(n, 3, 16, 16, generator=g)


def changed(method):
    """Return the fields that differ, except the name."""
    same = replace(method, name=SIMSIAM.name)
    return {f.name for f in fields(method) if getattr(same, f.name) != getattr(SIMSIAM, f.name)}


def test_each_method_names_only_what_differs():
    assert changed(siam.BYOL) == {"target"}
    assert changed(siam.SIMCLR) == {"predictor", "target", "objective"}
    assert changed(siam.SWAV) == {"predictor", "objective"}
    assert changed(siam.MOCO_V2) == {"predictor", "target", "objective"}


@pytest.mark.parametrize("name", METHODS)
def test_z_passes_gradient_only_with_target_gradient(name):
    method = small(METHODS[name])
    _, _, z1, z2 = network_for(method)(*views())
    assert z1.requires_grad == (method.target == "gradient")
    assert z2.requires_grad == (method.target == "gradient")


def test_byol_at_momentum_0_is_simsiam_in_loss_and_gradient():
    """After an update at momentum 0 the momentum encoder equals the encoder, and so do the targets."""
    losses, gradients = [], []
    for method in (small(siam.SIMSIAM), small(siam.BYOL, momentum=0.0)):
        network = network_for(method).double()
        network.update_target(0.0)
        p1, p2, z1, z2 = network(*(x.double() for x in views()))
        loss = build_objective(method)(p1, p2, z1, z2)
        loss.backward()
        losses.append(loss.detach())
        gradients.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
    assert torch.equal(losses[0], losses[1])
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def test_a_new_momentum_encoder_equals_its_source():
    network = network_for(small(siam.BYOL))
    ours, theirs = network.target_encoder.encoder.state_dict(), network.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert not any(p.requires_grad for p in network.target_encoder.parameters())


def test_momentum_update_is_its_formula_for_weights_and_buffers():
    """xi <- m xi + (1 - m) theta (BYOL Eq. 1)."""
    source = torch.nn.BatchNorm1d(3)
    target = MomentumEncoder(source)
    with torch.no_grad():
        source.weight.fill_(5.0)
        source.running_mean.fill_(2.0)
    target.update(source, 0.9)
    assert torch.allclose(target.encoder.weight, torch.full((3,), 0.9 * 1 + 0.1 * 5))
    assert torch.allclose(target.encoder.running_mean, torch.full((3,), 0.1 * 2))


def test_momentum_follows_a_cosine_to_one_or_is_constant():
    assert momentum_at(0.0, 0.996, "cosine") == pytest.approx(0.996)
    assert momentum_at(0.5, 0.996, "cosine") == pytest.approx(0.998)
    assert momentum_at(1.0, 0.996, "cosine") == pytest.approx(1.0)
    assert momentum_at(0.7, 0.999, "constant") == 0.999


ABLATIONS = {
    **{name: {} for name in METHODS},
    "no stop-gradient": {"target": "gradient"},
    "no predictor": {"predictor": "none"},
    "fixed predictor": {"predictor": "fixed"},
    **{f"batch norm {bn}": {"batch_norm": bn} for bn in ("none", "hidden", "all")},
    "cross-entropy": {"objective": "cross_entropy"},
    "asymmetric": {"symmetry": "asymmetric"},
    "asymmetric, 2x sampling": {"symmetry": "asymmetric_2x"},
    "output dimension": {"dim": 4},
    "moving average": {"objective": "moving_average", "predictor": "none"},
    "alternation": {"target": "momentum", "momentum": 0.0, "momentum_every": 2},
    "simclr with predictor": {"objective": "nt_xent", "target": "gradient"},
    "simclr with predictor and stop-gradient": {"objective": "nt_xent"},
    "swav with predictor": {"objective": "swapped_prediction"},
    "swav without stop-gradient": {
        "objective": "swapped_prediction",
        "predictor": "none",
        "target": "gradient",
    },
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_all_methods_and_ablations_train(name):
    """Three steps: a finite loss, gradient in all trained parameters and in no others."""
    method = replace(small(METHODS.get(name, SIMSIAM)), **ABLATIONS[name])
    network, objective = network_for(method), build_objective(method, images=BATCH)
    optimizer = build_optimizer(OptimizerSettings(), network, objective, 256)
    for step in range(3):
        objective.before_step(torch.arange(BATCH), epoch=1)
        loss = objective(*network(*views(step)))
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        assert all(p.grad is not None for p in trained)
        assert next(network.backbone.parameters()).grad.abs().sum() > 0  # down to the first layer
        optimizer.step()
        objective.after_step()
        if step % method.momentum_every == 0:
            network.update_target(method.momentum)
    frozen = [p for k, p in network.named_parameters() if k.startswith("target_encoder.")]
    frozen += list(network.predictor.parameters()) if method.predictor == "fixed" else []
    assert all(p.grad is None for p in frozen)
