"""A result is saved before it is printed, so that it is kept even if it cannot be printed."""

import io
import sys

import pytest

from siam.cli import command as cli
from siam.runs.results import load_evaluations
from tests.conftest import TINY


@pytest.fixture
def run(classes, tmp_path):
    for split in ("train", "val"):
        (classes / split / "dark").rename(classes / split / "日本")
    run = tmp_path / "run"
    assert cli.main(["pretrain", str(classes), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    return run


def evaluate(run, classes, *args):
    return cli.main(["evaluate", str(run), str(classes), "--workers", "0", *args])


def test_names_beyond_the_terminals_encoding_are_escaped(run, classes, monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    assert evaluate(run, classes) == 0
    assert b"\\u65e5\\u672c" in printed.getvalue()
    assert len(load_evaluations(run)) == 1


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_result_is_kept_even_if_the_disk_behind_stdout_is_full(run, classes, monkeypatch, capsys, args):
    capsys.readouterr()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert evaluate(run, classes, *args) == 2
    assert len(load_evaluations(run)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "siam: cannot write to the output: No space left on device; free some space"


def test_a_result_is_kept_without_stdout(run, classes, monkeypatch):
    """As with >&- in a shell, under cron, or in a service."""
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", None)
        assert evaluate(run, classes) == 0
        sys.stdout.close()
    assert len(load_evaluations(run)) == 1


def test_a_result_is_kept_whatever_printing_raises(run, classes, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise UnicodeEncodeError("ascii", text, 0, 1, "a terminal that cannot show it")

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(UnicodeEncodeError):
        evaluate(run, classes)
    assert len(load_evaluations(run)) == 1
