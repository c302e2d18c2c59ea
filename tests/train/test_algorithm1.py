"""Twenty steps of Algorithm 1 (Chen & He 2021), transcribed in plain torch, against twenty of Step."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from siam.methods import SIMSIAM
from siam.network import Network
from siam.objectives import build_objective
from siam.settings.pretraining import OptimizerSettings, Settings
from siam.train.optimizer import set_learning_rate
from siam.train.step import Step

D, HIDDEN, BOTTLENECK = 32, 24, 8
BATCH, EPOCHS, STEPS = 32, 5, 4  # 20 steps
LR = 0.2  # for a batch of 256; 0.025 for this one


def transcribed(backbone, weights, loader):
    """Return the losses, and the state of backbone, projector and predictor, after Algorithm 1.

    "We use SGD", lr x batch / 256, cosine decay, weight decay 0.0001, momentum 0.9 (Sec. 3); the predictor's
    rate does not decay (Sec. 4.2). Of f's MLP, BN ends every layer, the last one's without scale and shift as
    in the released code; h is a bottleneck whose output has neither BN nor ReLU.
    """
    projector = nn.Sequential(
        nn.Linear(backbone.num_features, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, D, bias=False), nn.BatchNorm1d(D, affine=False),
    )  # fmt: skip
    h = nn.Sequential(
        nn.Linear(D, BOTTLENECK, bias=False), nn.BatchNorm1d(BOTTLENECK), nn.ReLU(), nn.Linear(BOTTLENECK, D)
    )
    model = nn.ModuleDict({"backbone": backbone, "projector": projector, "predictor": h})
    model.load_state_dict(weights)

    def f(x):
        return projector(backbone(x))

    def d(p, z):
        z = z.detach()  # stop gradient
        p = p / p.norm(dim=1, keepdim=True)
        z = z / z.norm(dim=1, keepdim=True)
        return -(p * z).sum(dim=1).mean()

    velocity = {w: torch.zeros_like(w) for w in model.parameters()}
    losses = []
    for i, (x1, x2) in enumerate(loader):
        z1, z2 = f(x1), f(x2)
        p1, p2 = h(z1), h(z2)
        loss = d(p1, z2) / 2 + d(p2, z1) / 2
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        peak = LR * BATCH / 256
        decayed = peak * (1 + math.cos(math.pi * i / len(loader))) / 2
        of_h = set(h.parameters())
        with torch.no_grad():
            for w, g in zip(model.parameters(), gradients, strict=True):
                velocity[w] = 0.9 * velocity[w] + g + 0.0001 * w
                w -= (peak if w in of_h else decayed) * velocity[w]
        losses.append(loss.item())
    return losses, model.state_dict()


def ours(network, settings, loader):
    """Return the same from `siam.train.pretrain`."""
    train_on = Step(network, build_objective(settings.method), settings, torch.device("cpu"))
    losses = []
    for i, views in enumerate(loader):
        set_learning_rate(train_on.optimizer, settings.optimizer, i / STEPS, settings.epochs)
        loss, _ = train_on(views, torch.arange(BATCH), epoch=1)
        losses.append(loss.item())
    return losses, network.state_dict()


def two_views(steps):
    """Return views of images in smooth colors, each with its own noise: BN would amplify rounding errors if
    images had much in common."""
    for _ in range(steps):
        images = 2 * nn.functional.interpolate(torch.randn(BATCH, 3, 3, 3), size=16, mode="bilinear")
        yield images + torch.randn_like(images) / 2, images + torch.randn_like(images) / 2


def test_twenty_steps_are_those_of_algorithm_1():
    """All losses, weights and BN statistics, to 1e-5 in float32; the weights move far more than that."""
    torch.manual_seed(0)
    method = replace(SIMSIAM, dim=D, projector_hidden=HIDDEN, predictor_hidden=BOTTLENECK)
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    settings = Settings(
        epochs=EPOCHS,
        batch_size=BATCH,
        precision="float32",
        method=method,
        optimizer=OptimizerSettings(lr=LR),
    )
    loader = list(two_views(EPOCHS * STEPS))
    before = copy.deepcopy(network.state_dict())

    expected, state = transcribed(copy.deepcopy(network.backbone), before, loader)
    losses, weights = ours(network, settings, loader)

    assert losses == pytest.approx(expected, rel=0, abs=1e-5)
    assert len(losses) == 20
    assert weights.keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(weights[key], value, rtol=0, atol=1e-5), key
    for part in ("backbone", "projector", "predictor"):
        moved = [(state[key] - before[key]).abs().max() for key in state if key.startswith(part)]
        assert max(moved) > 1e-2, part
