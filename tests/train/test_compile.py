"""torch.compile changes no numbers: in a step, in a run, and in processes that all-reduce gradients."""

import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import siam
from siam.cli import command as cli
from siam.methods import SIMSIAM
from siam.network import Network
from siam.objectives import build_objective
from siam.processes.data_parallel import data_parallel
from siam.processes.gather import local_shard
from siam.processes.launch import launch
from siam.processes.rendezvous import process_group
from siam.settings.pretraining import Settings
from siam.train import step as step_module
from siam.train.step import Step
from tests.conftest import TINY
from tests.train.test_bf16 import pretrain_until
from tests.train.test_pretrain import records

COMPILER = os.environ.get("CXX", "g++")
compiles = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"torch.compile needs {COMPILER}")

HEADS = {"projector_layers": 2, "projector_hidden": 16, "dim": 16, "predictor_hidden": 4}  # as in TINY


def step_for(batch_size, **changes):
    """Return the training step of TINY's network."""
    torch.manual_seed(0)
    method = replace(SIMSIAM, **HEADS)
    network = Network(method, "resnet10t", image_size=16, width=0.125).to(memory_format=torch.channels_last)
    settings = Settings(batch_size=batch_size, precision="float32", device="cpu", method=method, **changes)
    return Step(network, build_objective(method), settings, torch.device("cpu")), network


def two_views(batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, batch_size, 3, 16, 16, generator=generator)
    return [local_shard(view).contiguous(memory_format=torch.channels_last) for view in views]


@pytest.fixture
def compiled_modules(monkeypatch):
    """The modules passed to torch.compile, in order."""
    given, compile_it = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: given.append(module) or compile_it(module))
    return given


@compiles
@pytest.mark.slow
def test_a_compiled_step_is_the_step(compiled_modules):
    """Loss, z, weights and BN statistics, to 1e-5 in float32."""
    found = []
    for compiled in (False, True):
        step, network = step_for(8, compile=compiled)
        before = network.backbone.conv1.weight.detach().clone()
        loss, z1 = step(two_views(8, seed=1), torch.arange(8), epoch=1)
        assert (network.backbone.conv1.weight - before).abs().max() > 1e-4
        found.append({"loss": loss, "z1": z1, **network.state_dict()})
    assert compiled_modules == [network]
    plain, compiled = found
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        assert torch.allclose(compiled[key], value, rtol=1e-5, atol=1e-5), key


@compiles
@pytest.mark.slow
def test_a_compiled_run_ends_resumes_and_embeds(classes, tmp_path, monkeypatch, compiled_modules):
    """Weights have the same names as in any other run, so that everything that reads runs reads this one.

    Losses are those of an uncompiled run within rounding.
    """
    args = ["pretrain", str(classes), *TINY, "--checkpoint.every", "2", "--out"]
    plain, run = tmp_path / "plain", tmp_path / "compiled"
    assert cli.main([*args, str(plain)]) == 0
    pretrain_until(5, monkeypatch, [*args, str(run), "--compile", "true"])
    assert cli.main([*args, str(run), "--compile", "true", "--resume"]) == 0
    assert len(compiled_modules) == 2

    steps, others = (records(folder, "step") for folder in (run, plain))
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    losses, expected = ([record["loss"] for record in own[:3]] for own in (steps, others))
    assert losses == pytest.approx(expected, abs=1e-4)
    assert len(records(run, "end")) == 1
    names = [set(safe_open(folder / "encoder.safetensors", "pt").keys()) for folder in (plain, run)]
    assert names[0] == names[1]
    saved = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (plain, run)]
    assert saved[0]["network"].keys() == saved[1]["network"].keys()
    vectors, paths = siam.embed(run, classes, workers=0)
    assert vectors.shape == (len(paths), siam.load(run).features)
    assert np.isfinite(vectors).all()


def accumulated(compiled):
    """Return, in one of two processes, the number of all-reduces in each of two steps, and the weights after.

    The graph is captured but not compiled further, which does not affect communication.
    """
    torch.set_num_threads(1)
    torch.compile = partial(torch.compile, backend="eager")
    exchanged = [0, 0]

    def counted(*arguments):
        network = data_parallel(*arguments)

        def hook(state, bucket):
            exchanged[number] += 1
            return allreduce_hook(None, bucket)

        network.register_comm_hook(None, hook)
        return network

    with process_group("cpu", 60), pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "data_parallel", counted)
        step, network = step_for(24, grad_accum=3, compile=compiled, sync_bn=False)
        for number in range(2):
            step(two_views(24, seed=number), torch.arange(12), epoch=1)
        return exchanged, [p.detach().numpy() for p in network.parameters()]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_gradients_are_all_reduced_once_a_step_under_accumulation():
    """All of this network's gradients fit in one bucket, so one all-reduce is one call."""
    plain, weights = launch(2, accumulated, False)
    assert plain == [1, 1]
    compiled, others = launch(2, accumulated, True)
    assert compiled == [1, 1]
    assert all(np.allclose(a, b, rtol=0, atol=1e-5) for a, b in zip(others, weights, strict=True))


class TwoViews(nn.Module):
    """BN after BN, each applied twice, as in a Siamese network."""

    def __init__(self):
        super().__init__()
        layers = [nn.Sequential(nn.Linear(i, 6), nn.BatchNorm1d(6), nn.ReLU()) for i in (4, 6)]
        self.f = nn.Sequential(*layers, nn.Linear(6, 3))

    def forward(self, x1, x2):
        return self.f(x1), self.f(x2)


def synchronized(compiled):
    """Return, in one of two processes, gradients through synchronized BN."""
    torch.set_num_threads(1)
    with process_group("cpu", 60):
        torch.manual_seed(0)
        network = TwoViews()
        forward = data_parallel(network, torch.device("cpu"), sync_bn=True)
        forward = torch.compile(forward) if compiled else forward
        z1, z2 = forward(local_shard(torch.randn(12, 4)), local_shard(torch.randn(12, 4)))
        (z1.square().mean() + z2.square().mean()).backward()
        return {name: p.grad.numpy() for name, p in network.named_parameters()}


@compiles
@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_synchronized_bn_has_the_same_gradients_when_compiled():
    plain, compiled = launch(2, synchronized, False), launch(2, synchronized, True)
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        assert np.allclose(compiled[name], gradient, rtol=1e-4, atol=1e-5), name
