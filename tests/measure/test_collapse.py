"""Measures of collapse at both extremes, where their values are known; and a run that collapses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from siam.measure.collapse import ADVICE, effective_rank, embedding_std, std_at_collapse, verdict
from siam.methods import SIMSIAM
from siam.runs.folder import open_run
from tests.conftest import run_cli


def test_std_is_one_for_isotropic_outputs_and_zero_for_a_constant():
    z = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    assert float(embedding_std(z)) == pytest.approx(1.0, abs=0.01)
    assert float(embedding_std(torch.ones(100, 64))) == pytest.approx(0.0, abs=1e-6)


def test_std_equals_its_formula():
    """(1/d) sum_c std_i(z_ic / |z_i|) sqrt(d), written out."""
    z = np.random.default_rng(0).normal(size=(7, 5))
    unit = z / np.sqrt((z**2).sum(axis=1, keepdims=True))
    expected = np.mean([np.std(unit[:, c]) for c in range(5)]) * np.sqrt(5)
    assert float(embedding_std(torch.from_numpy(z))) == pytest.approx(expected, abs=1e-6)


def test_std_falls_when_dimensions_die():
    z = torch.randn(5000, 64, generator=torch.Generator().manual_seed(0))
    z[:, 16:] = 0
    assert float(embedding_std(z)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_counts_equal_directions(rank):
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(50, rank)))
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, rank)))
    assert effective_rank(torch.from_numpy(q @ basis.T)) == pytest.approx(rank, rel=1e-6)


def test_rank_equals_its_formula():
    """exp(-sum p log p), p the singular values over their sum (Garrido et al. 2023, Eq. 1)."""
    x = np.random.default_rng(0).normal(size=(30, 6))
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum()
    assert effective_rank(torch.from_numpy(x)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("std", "expected"), [(0.0, "collapsed"), (0.09, "collapsed"), (0.45, "at risk"), (0.97, "healthy")]
)
def test_verdicts(std, expected):
    assert verdict(std) == expected
    assert expected == "healthy" or ADVICE[expected]


def test_a_low_rank_is_at_risk_even_if_no_channel_shows_it():
    """Three directions, rotated so that every channel mixes all of them."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(256, 3, generator=g) @ torch.randn(3, 512, generator=g)
    std, rank = float(embedding_std(z)), effective_rank(z)
    assert std > 0.8
    assert rank == pytest.approx(3, abs=0.1)
    assert verdict(std) == "healthy"
    assert verdict(std, rank=rank, max_rank=256) == "at risk"
    assert verdict(1.0, rank=60.0, max_rank=256) == "healthy"
    assert verdict(1.0, rank=3.0, max_rank=4) == "healthy"


@pytest.mark.parametrize("batch", [8, 32, 512])
def test_the_floor_is_the_std_of_a_centered_batch_at_full_collapse(batch):
    """All images but one share a vector; the other one brings the mean to 0."""
    shared = torch.randn(64, generator=torch.Generator().manual_seed(0))
    z = torch.cat([shared.repeat(batch - 1, 1), -(batch - 1) * shared[None]])
    z = z / z.std(dim=0, correction=0)
    assert torch.allclose(z.mean(dim=0), torch.zeros(64), atol=1e-5)
    floor = std_at_collapse(SIMSIAM, batch)
    assert float(embedding_std(z)) == pytest.approx(floor, rel=1e-4)
    assert verdict(floor, floor) == "collapsed"
    assert verdict(0.97, floor) == "healthy"


def test_in_batches_of_two_the_std_is_uninformative():
    """Two vectors with mean 0 are opposites, whatever the network has learned."""
    floor = std_at_collapse(SIMSIAM, 2)
    assert floor == 1
    assert verdict(0.999, floor, rank=6.4, max_rank=12) == "healthy"
    assert verdict(0.999, floor, rank=1.5, max_rank=12) == "at risk"
    assert verdict(float("nan"), floor) == "collapsed"


@pytest.mark.parametrize(
    "change", [{"batch_norm": "hidden"}, {"batch_norm": "none"}, {"output_affine": True}]
)
def test_without_a_centering_norm_the_floor_is_0(change):
    assert std_at_collapse(replace(SIMSIAM, **change), 32) == 0


@pytest.mark.slow
def test_a_run_without_stop_gradient_collapses_and_reports_it(tmp_path):
    run = tmp_path / "run"
    flags = ["--method.target", "gradient", "--epochs", 4]
    done = run_cli("pretrain", *flags, "--out", run, "--json", check=0)
    outcome = json.loads(done.stdout)
    assert outcome["verdict"] == "collapsed"
    assert outcome["loss"] < -0.98
    assert outcome["std"] < 0.1
    assert outcome["knn"] < outcome["pixel_knn"]
    epochs = [record for record in open_run(run).metrics() if record["kind"] == "epoch"]
    assert "collapsed" in [record["verdict"] for record in epochs[:3]]
    assert "collapsed: all images" in " ".join(done.stderr.split())
