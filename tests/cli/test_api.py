"""Siam in Python: the functions do what the verbs do, and raise what the verbs print."""

import json
from dataclasses import asdict

import numpy as np
import pytest

import siam
from siam.cli import command as cli
from siam.errors import DataError, RunError, SettingsError
from tests.conftest import TINY

SETTINGS = {
    "backbone": "resnet10t",
    "width": 0.125,
    "epochs": 1,
    "batch_size": 8,
    "precision": "float32",
    "views": {"size": 16},
    "loader": {"workers": 0},
    "monitor": {"knn_k": 5},
}
HEADS = {"dim": 16, "projector_hidden": 16, "predictor_hidden": 4, "projector_layers": 2}


@pytest.fixture
def run(classes, tmp_path):
    method = {"name": "byol", **HEADS}
    return siam.pretrain(classes, method=method, out=tmp_path / "run", **SETTINGS).run


def printed(capsys, *args):
    """Return the JSON that a verb prints."""
    capsys.readouterr()
    assert cli.main([*map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_functions_are_the_verbs(run, classes, tmp_path, capsys):
    result = siam.evaluate(run, classes, protocol="probe", workers=0)
    shown = printed(capsys, "evaluate", run, classes, "--protocol", "probe", "--workers", 0)
    timeless = {name: value for name, value in shown.items() if name != "seconds"}
    assert timeless == {k: v for k, v in json.loads(json.dumps(asdict(result))).items() if k != "seconds"}
    kept = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert [each["top1"] for each in kept] == [result.top1], "only the verb keeps its result in the run"

    assert siam.inspect(run, classes, device="cpu") == printed(
        capsys, "inspect", run, classes, "--device", "cpu"
    )
    exported = siam.export(run, "safetensors", tmp_path / "encoder.safetensors")
    assert exported == printed(
        capsys, "export", run, "--format", "safetensors", "--out", tmp_path / "encoder.safetensors"
    )
    imported = siam.import_(tmp_path / "encoder.safetensors", tmp_path / "again")
    assert imported.method == "byol"
    vectors, paths = siam.embed(run, classes, workers=0)
    again, _ = siam.embed(tmp_path / "again", classes, workers=0)
    assert len(paths) == 36
    np.testing.assert_array_equal(vectors, again)


def test_a_resumed_run_keeps_its_method_and_data_or_raises(run, classes, photos, tmp_path):
    same = siam.pretrain(out=run, resume=True)
    assert same.run == run
    with pytest.raises(RunError, match=r"method.name \(byol and simclr\)"):
        siam.pretrain(out=run, resume=True, method="simclr")
    with pytest.raises(RunError, match="the images changed since"):
        siam.pretrain(photos, out=run, resume=True)
    command = ["pretrain", str(photos), "--out", str(run), "--resume"]
    assert cli.main(command) == 2
    assert cli.main(["pretrain", "--out", str(run), "--resume", "--method", "byol"]) == 0


def test_errors_are_raised(run, classes, photos, tmp_path):
    with pytest.raises(SettingsError, match="unknown setting 'epoch'; did you mean epochs"):
        siam.pretrain(photos, out=tmp_path / "x", epoch=3)
    with pytest.raises(SettingsError, match="timeout must be a string, got 10"):
        siam.pretrain(photos, out=tmp_path / "x", timeout=10)
    with pytest.raises(SettingsError, match="unknown method 'bylo'; did you mean byol"):
        siam.pretrain(photos, method="bylo", out=tmp_path / "x")
    with pytest.raises(SettingsError, match="got 'prob'; did you mean probe"):
        siam.evaluate(run, classes, "prob")
    with pytest.raises(SettingsError, match="unknown setting 'label'; did you mean labels"):
        siam.evaluate(run, classes, label=0.1)
    with pytest.raises(DataError, match="has no labels"):
        siam.evaluate(run, photos, workers=0)
    with pytest.raises(RunError, match="no run at"):
        siam.inspect(tmp_path / "nowhere") if (tmp_path / "nowhere").exists() else siam.load(
            tmp_path / "nowhere"
        )


def test_every_public_name_has_a_docstring():
    for name in siam.__all__:
        assert getattr(siam, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'train_on'"):
        _ = siam.train_on


def test_flags_and_keywords_give_the_same_run(classes, tmp_path):
    """Bit for bit, as their records show."""
    one = siam.pretrain(classes, method=HEADS, out=tmp_path / "one", **{**SETTINGS, "epochs": 2})
    flags = [*TINY, "--monitor.log-every", "10", "--out", str(tmp_path / "other")]
    assert cli.main(["pretrain", str(classes), *flags]) == 0
    lines = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    last = next(record for record in map(json.loads, lines) if record["kind"] == "end")
    assert (last["loss"], last["std"], last["knn"]) == (one.loss, one.std, one.metrics["knn"])
