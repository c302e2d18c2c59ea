"""Tiny runs equal the recorded ones, so that no change alters training unintentionally."""

import json
import math

import pytest
import torch

from tests import golden


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    threads = torch.get_num_threads()
    try:
        return golden.record(tmp_path_factory.mktemp("golden"))
    finally:
        torch.set_num_threads(threads)


KEPT = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("name", KEPT["runs"])
def test_the_run_equals_its_golden_run(found, name):
    kept, now = KEPT["runs"][name], found[name]
    if golden.recorder() == {key: KEPT[key] for key in golden.recorder()}:
        assert now == kept, "bit for bit"
    assert_close(now["metrics"], kept["metrics"], name)


def assert_close(now, kept, where):
    """Compare numbers to 1 %, more than another processor's rounding; everything else must be equal."""
    if isinstance(kept, dict):
        assert now.keys() == kept.keys(), where
        for key, value in kept.items():
            assert_close(now[key], value, f"{where}, {key}")
    elif isinstance(kept, list):
        assert len(now) == len(kept), where
        for i, value in enumerate(kept):
            assert_close(now[i], value, f"{where}, {i}")
    elif isinstance(kept, float):
        assert math.isclose(now, kept, rel_tol=0.01, abs_tol=0.01), f"{where}: {now} for {kept}"
    else:
        assert now == kept, where


def test_every_method_has_a_golden_run():
    from siam.methods import METHODS

    assert set(METHODS) <= set(KEPT["runs"])
