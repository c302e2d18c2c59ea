"""The product in the environments that users have: other defaults of torch, and warnings that are errors."""

import warnings

import numpy as np
import torch

import siam
from siam.data.workers import batches_of
from tests.conftest import TINY, run_cli
from tests.data.test_workers import Squares


def test_another_default_dtype_changes_nothing(photos, tmp_path):
    """torch.set_default_dtype(torch.float64) is the user's, and stays."""
    run = tmp_path / "run"
    run_cli("pretrain", photos, *TINY, "--epochs", 1, "--out", run, check=0)
    expected, _ = siam.embed(run, photos, workers=0)
    torch.set_default_dtype(torch.float64)
    try:
        found, _ = siam.embed(run, photos, workers=0)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_more_workers_than_cores_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = batches_of(Squares(), lambda n: range(n, 3), workers=9)
        assert [square for square, _ in batches] == [0, 1, 4]
