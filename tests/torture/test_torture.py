"""A few random faults, and the judge of how runs end."""

from types import SimpleNamespace

import pytest

from tests.torture.__main__ import GOOD, Failed, differences, judged, names_in, torture
from tests.torture.verbs import VERBS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_faults_at_random_moments():
    ends = torture(3, seed=4, verbs=list(VERBS), faults=[])
    assert len(ends) == 3
    assert [end for end in ends if end[2] not in GOOD] == []


@pytest.mark.parametrize(
    ("status", "stderr", "expected"),
    [
        (0, "", "finished"),
        (75, "siam: stopped at step 3: continue with --resume", "stopped"),
        (-9, "", "stopped"),
        (143, "siam: stopped by SIGTERM\n", "stopped"),
        (129, "siam: stopped by SIGHUP\n", "stopped"),
        (2, "epoch 1\nsiam: cannot write to run: No space left on device\n", "a sentence"),
        (2, "siam: one\ntwo\nthree\nfour\n", None),
        (2, "", None),
        (1, "siam: ?", None),
        (-11, "", None),
        (2, "Traceback (most recent call last):\nsiam: no", None),
        (0, "Exception in thread\nTraceback (most recent call last):\n", None),
    ],
)
def test_ends(status, stderr, expected):
    command = SimpleNamespace(stderr=stderr)
    if expected is None:
        with pytest.raises(Failed):
            judged(status, command)
    else:
        assert judged(status, command) == expected


def test_differences_and_names(tmp_path):
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a: [1] b: 2 and 3"
    for name in ("a.pt", ".lock", "events.out.tfevents.1", "a.pt.writing"):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == {"a.pt", "a.pt.writing"}
