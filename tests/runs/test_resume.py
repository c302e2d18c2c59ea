"""A run that is killed and resumed equals an uninterrupted one bit for bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.command import Command
from tests.conftest import TINY, run_cli

TIMES = ("seconds", "pairs_per_second")


def metrics(run):
    """Return all records without timings."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(one, other):
    assert metrics(one) == metrics(other)
    a, b = (load_file(run / "encoder.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, other))
    for part in ("network", "objective"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    for key, state in a["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], b["optimizer"]["state"][key]["momentum_buffer"])


def kill_at(step, args, run):
    """Start the command and send it SIGKILL once it has logged `step`."""
    log = run / "metrics.jsonl"
    Command(*args).kill_when(lambda: log.exists() and f'"step": {step},' in log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_the_same_run(classes, tmp_path, workers):
    args = [
        "pretrain",
        classes,
        *TINY,
        "--epochs",
        3,
        "--checkpoint.every",
        2,
        "--loader.cache",
        "none",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_cli(*args, "--out", whole, check=0)
    again = [*args, "--out", broken, "--loader.workers", workers]
    kill_at(4, again, broken)
    kill_at(8, [*again, "--resume"], broken)
    run_cli(*again, "--resume", check=0)
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_a_cached_set_and_a_method_with_state_resume_exactly(tmp_path):
    args = ["pretrain", *TINY, "--batch-size", 1000, "--epochs", 2, "--checkpoint.every", 2]
    args += ["--method", "moco_v2", "--method.queue", 3000]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_cli(*args, "--out", whole, check=0)
    kill_at(7, [*args, "--out", broken], broken)
    run_cli(*args, "--out", broken, "--resume", check=0)
    assert_same_run(whole, broken)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(photos, tmp_path):
    args = ["pretrain", photos, *TINY, "--out", tmp_path / "run"]
    run_cli(*args, check=0)
    before = metrics(tmp_path / "run")
    done = run_cli(*args, "--resume", "--json", check=0)
    assert metrics(tmp_path / "run") == before
    assert json.loads(done.stdout)["epochs"] == 2
