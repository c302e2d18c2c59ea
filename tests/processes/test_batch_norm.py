"""Batch norm over processes whose shares differ in size is batch norm over all their rows."""

import pytest
import torch
from torch import nn

from siam.processes.agree import all_gather_object
from siam.processes.batch_norm import SyncedBatchNorm
from siam.processes.gather import rank
from siam.processes.launch import launch
from siam.processes.rendezvous import process_group

SIZES = (3, 5)


def rows():
    """Return x and the gradient of its normalized form, (8, 4, 2, 3)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, sum(SIZES), 4, 2, 3, generator=generator) * 3 + 1


def pass_through(norm, x, dy):
    x = x.clone().requires_grad_()
    out = norm(x)
    out.backward(dy)
    return {
        "out": out.detach(), "dx": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        "mean": norm.running_mean, "var": norm.running_var,
    }  # fmt: skip


def share():
    torch.set_num_threads(1)
    with process_group("cpu", 60):
        x, dy = (whole.split(SIZES)[rank()] for whole in rows())
        found = pass_through(SyncedBatchNorm(nn.BatchNorm2d(4)), x, dy)
        return [{key: value.numpy() for key, value in part.items()} for part in all_gather_object(found)]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_unequal_shares():
    parts = launch(2, share)
    whole = {key: value.numpy() for key, value in pass_through(nn.BatchNorm2d(4), *rows()).items()}
    for key in ("out", "dx"):
        joined = torch.cat([torch.from_numpy(part[key]) for part in parts])
        torch.testing.assert_close(joined, torch.from_numpy(whole[key]), rtol=1e-5, atol=1e-5)
    for key in ("weight", "bias"):
        torch.testing.assert_close(parts[0][key] + parts[1][key], whole[key], rtol=1e-5, atol=1e-5)
    for part in parts:
        for key in ("mean", "var"):
            torch.testing.assert_close(part[key], whole[key], rtol=1e-5, atol=1e-6)
