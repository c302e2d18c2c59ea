"""Training and embedding in bf16: as near float32 as 8 significant bits allow, and as reproducible."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siam
from siam.cli import command as cli
from siam.convert import vectors as embedding
from siam.methods import SIMSIAM
from siam.network import Network
from siam.objectives import build_objective
from siam.settings.pretraining import OptimizerSettings, Settings
from siam.train import pretrain
from siam.train.step import Step
from tests.conftest import TINY
from tests.runs.test_resume import assert_same_run

ULP = 2.0**-8
"""The spacing of bf16 numbers near 1; rounding errs by at most half of it."""

BATCH = 64


def a_step(precision):
    """Return loss, z1, gradients and weight change of one step from the same start, and the network."""
    torch.manual_seed(0)
    method = replace(SIMSIAM, projector_layers=2, dim=16, projector_hidden=32, predictor_hidden=8)
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    settings = Settings(
        batch_size=BATCH, precision=precision, method=method, optimizer=OptimizerSettings(lr=0.2)
    )
    step = Step(network, build_objective(method), settings, torch.device("cpu"))
    images = 2 * F.interpolate(torch.randn(BATCH, 3, 3, 3), size=16, mode="bilinear")
    views = [images + torch.randn_like(images) / 2 for _ in range(2)]
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    loss, z1 = step(views, torch.arange(BATCH), epoch=1)
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    return loss, z1, gradient, nn.utils.parameters_to_vector(network.parameters()).detach() - before, network


def test_a_step_in_bf16_is_near_the_step_in_float32():
    """A dozen layers round: z is within 8 ulp; the loss, a mean of 64 cosines, within one.

    Gradients are the least exact, since BN cancels nearly all of its incoming gradient; directions agree.
    """
    loss, z, gradient, moved, _ = a_step("float32")
    bf16_loss, bf16_z, bf16_gradient, bf16_moved, network = a_step("bf16")
    assert (z.dtype, bf16_z.dtype) == (torch.float32, torch.bfloat16)
    assert (bf16_z.float() - z).norm() < 8 * ULP * z.norm()
    assert bf16_loss.dtype == torch.float32
    assert abs(bf16_loss - loss) < ULP
    assert F.cosine_similarity(bf16_gradient, gradient, dim=0) > 0.97
    assert F.cosine_similarity(bf16_moved, moved, dim=0) > 0.97
    assert bf16_moved.norm() / moved.norm() == pytest.approx(1, abs=0.1)
    for value in network.state_dict().values():
        assert value.dtype in (torch.float32, torch.int64), "only what passes through the network is bf16"


def test_the_loss_itself_is_taken_in_float32():
    """To 1e-6 for the same z and p rounded to bf16: cosines in bf16 would be off by 1e-3."""
    torch.manual_seed(0)
    p1, p2, z1, z2 = torch.randn(4, 32, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = build_objective(SIMSIAM)(p1, p2, z1, z2)
    cosines = [F.cosine_similarity(p.double(), z.double()).mean() for p, z in ((p1, z2), (p2, z1))]
    assert loss.item() == pytest.approx(-sum(cosines).item() / 2, abs=1e-6)


class PowerCut(Exception):
    """Ends a run at an arbitrary point, as a power cut does."""


def pretrain_until(step, monkeypatch, args):
    """Run the command in this process until it is cut off after that many steps."""
    left = iter(range(step))

    class Cut(Step):
        def __call__(self, views, images, epoch):
            if next(left, None) is None:
                raise PowerCut
            return super().__call__(views, images, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "Step", Cut)
        with pytest.raises(PowerCut):
            cli.main(args)


def test_a_run_in_bf16_stopped_and_resumed_is_the_same_run(classes, tmp_path, monkeypatch):
    flags = [*TINY, "--precision", "bf16", "--epochs", "3", "--checkpoint.every", "2"]
    args = ["pretrain", str(classes), *flags, "--out"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli.main([*args, str(whole)]) == 0
    pretrain_until(5, monkeypatch, [*args, str(broken)])
    assert cli.main([*args, str(broken), "--resume"]) == 0
    assert '"precision": "bf16"' in (whole / "metrics.jsonl").read_text()
    assert_same_run(whole, broken)


def test_vectors_in_bf16_are_those_in_float32_to_a_percent(classes, tmp_path, monkeypatch):
    """On every machine: both precisions are forced."""
    run = tmp_path / "run"
    assert cli.main(["pretrain", str(classes), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    found = []
    for bf16 in (False, True):
        monkeypatch.setattr(embedding, "uses_bf16", lambda *_, bf16=bf16: bf16)
        found.append(siam.embed(run, classes, workers=0)[0])
    exact, rounded = found
    assert rounded.dtype == np.float32
    distance, length = np.linalg.norm(rounded - exact, axis=1), np.linalg.norm(exact, axis=1)
    assert (distance < 3 * ULP * length).all()
    as_bf16 = torch.from_numpy(rounded).bfloat16().float().numpy()
    assert np.array_equal(rounded, as_bf16), "it is bf16 that was kept"
    assert not np.array_equal(exact, rounded)
