"""An optimizer step is the same with gradient accumulation and with activation checkpointing."""

import json
from dataclasses import replace

import pytest
import torch

from siam.errors import SettingsError
from siam.methods import METHODS
from siam.network import Network
from siam.objectives import build_objective
from siam.settings.pretraining import Settings
from siam.train.step import Step
from tests.conftest import TINY, run_cli

HEADS = {"projector_hidden": 16, "dim": 8, "predictor_hidden": 4, "batch_norm": "none"}
SETTINGS = Settings(batch_size=8, precision="float32", device="cpu")
IMAGES = torch.arange(8)


def a_step(method, frozen_statistics, **changes):
    """Return loss, z1 and weights after a step from the same start, and the bytes kept for backward."""
    torch.manual_seed(0)
    method = replace(METHODS[method], **HEADS)
    network, objective = Network(method, "resnet10t", 16, width=0.125), build_objective(method)
    network.train(not frozen_statistics)  # in eval mode, images of a batch know nothing of each other
    settings = replace(SETTINGS, method=method, backbone="resnet10t", **changes)
    step = Step(network, objective, settings, torch.device("cpu"))
    views = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        loss, z1 = step(views, IMAGES, epoch=1)
    return loss, z1, dict(network.named_parameters()), sum(kept)


@pytest.mark.parametrize("parts", [2, 4])
def test_gradient_accumulation_gives_the_same_step(parts):
    whole_loss, whole_z, whole, _ = a_step("simsiam", True)
    loss, z1, weights, _ = a_step("simsiam", True, grad_accum=parts)
    assert torch.allclose(loss, whole_loss, atol=1e-6)
    assert torch.allclose(z1, whole_z, atol=1e-6)
    assert all(torch.allclose(weights[key], whole[key], atol=1e-6) for key in whole)


def test_under_accumulation_the_queue_takes_the_keys_of_all_parts():
    method = replace(METHODS["moco_v2"], **HEADS, queue=20)
    network, objective = Network(method, "resnet10t", 16, width=0.125), build_objective(method)
    step = Step(network, objective, replace(SETTINGS, method=method, grad_accum=2), torch.device("cpu"))
    before = objective.queue.clone()
    _, z1 = step(torch.randn(2, 8, 3, 16, 16), IMAGES, epoch=1)
    assert int(objective.pointer) == 16
    assert torch.equal(objective.queue[16:], before[16:])
    keys = torch.nn.functional.normalize(z1, dim=1)
    assert torch.cdist(objective.queue, keys).min(dim=0).values.max() < 1e-3


def test_activation_checkpointing_gives_the_same_step_with_less_memory():
    loss, z1, weights, kept = a_step("simsiam", False)
    again_loss, again_z, again, kept_again = a_step("simsiam", False, activation_checkpointing=True)
    assert torch.equal(loss, again_loss)
    assert torch.equal(z1, again_z)
    assert all(torch.allclose(weights[key], again[key], atol=1e-6) for key in weights)
    assert kept_again < 0.6 * kept


def test_an_indivisible_accumulation_is_refused():
    with pytest.raises(SettingsError, match="grad_accum must divide batch_size into equal micro-batches"):
        replace(SETTINGS, grad_accum=3)
    with pytest.raises(SettingsError, match="grad_accum must divide batch_size into equal micro-batches"):
        replace(SETTINGS, grad_accum=8)


def test_a_run_with_gradient_accumulation(photos, tmp_path):
    flags = [*TINY, "--grad-accum", 2, "--activation-checkpointing", "true", "--out", tmp_path / "run"]
    run_cli("pretrain", photos, *flags, check=0)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["steps"]) == ("end", 6)
