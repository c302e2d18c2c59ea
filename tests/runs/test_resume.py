"""A run that is killed and resumed equals an uninterrupted one bit for bit."""

import json
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

import siam
from siam.runs.saving import RunStopped, StopRequest
from siam.train.monitor import Monitor
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
def test_a_run_that_is_stopped_while_it_measures_resumes_exactly(classes, tmp_path, monkeypatch):
    """After the first epoch, and after the last one."""
    options = {
        "method": {"name": "simsiam", "dim": 16, "projector_hidden": 16, "predictor_hidden": 4},
        "backbone": "resnet10t", "width": 0.125, "epochs": 2, "batch_size": 8, "precision": "float32",
        "views": {"size": 16}, "loader": {"workers": 0}, "monitor": {"log_every": 1, "knn_k": 5},
    }  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    siam.pretrain(classes, out=whole, **options)
    monkeypatch.setattr(StopRequest, "LIMIT", 0.1)
    measure, calls = Monitor.measure, []

    def stopped(*args):
        calls.append(args)
        if len(calls) in (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return measure(*args)

    monkeypatch.setattr(Monitor, "measure", stopped)
    for step in (3, 6):
        with pytest.raises(RunStopped, match=f"after step {step} of 6, saved"):
            siam.pretrain(classes, out=broken, resume="auto", **options)
    siam.pretrain(out=broken, resume=True)
    assert_same_run(whole, broken)
    assert {file.name for file in whole.iterdir()} == {file.name for file in broken.iterdir()}


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(photos, tmp_path):
    args = ["pretrain", photos, *TINY, "--out", tmp_path / "run"]
    run_cli(*args, check=0)
    before = metrics(tmp_path / "run")
    done = run_cli(*args, "--resume", "--json", check=0)
    assert metrics(tmp_path / "run") == before
    assert json.loads(done.stdout)["epochs"] == 2
