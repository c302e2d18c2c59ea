"""What is learnt does not change unless somebody means it to: tiny runs against the ones that are kept."""

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
def test_the_run_is_the_one_that_is_kept(found, name):
    kept, now = KEPT["runs"][name], found[name]
    if golden.recorder() == {key: KEPT[key] for key in golden.recorder()}:
        assert now == kept, "bit for bit"
    assert_close(now["metrics"], kept["metrics"], name)


def assert_close(now, kept, where):
    """Numbers to 1 %, which the last bits of another processor's sums do not reach; all else the same."""
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
