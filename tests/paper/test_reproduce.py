"""`siam reproduce`: the published rows, one run each, resumed if interrupted, and the table."""

import io
import json
import shlex
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from siam.cli import command as cli
from siam.data.sources import open_images
from siam.errors import SettingsError
from siam.methods import METHODS
from siam.paper.reproduce import Study, markdown, reproduce
from siam.paper.tables import TABLES, Row, table
from siam.recipes import DEMO
from siam.report.curves import figure2
from siam.runs.folder import open_run
from siam.runs.history import History
from siam.settings.overrides import Overrides
from siam.settings.plain import from_dict, to_dict
from siam.settings.pretraining import Settings
from tests.conftest import TINY, run_cli

PUBLISHED = {
    "stop-gradient": [67.7, 0.1],
    "predictor": [0.1, 1.5, 67.7, 68.1],
    "batch-size": [66.1, 67.3, 68.1, 68.1, 68.0, 67.9, 64.0],
    "batch-norm": [34.6, 67.4, 68.1, 68.2, None],
    "similarity": [68.1, 63.2],
    "symmetry": [68.1, 64.8, 67.3],
    "dimension": [65.3, 67.2, 67.5, 68.1],
    "alternation": [68.1, 68.7, 68.9, 67.0, 55.0],
    "hub": [66.5, 66.4, 66.0, 66.5, 65.2, None],
    "methods": [66.5, 67.4, 66.5, 66.5, 68.1],
}
"""As printed in the paper, row by row."""


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_those_of_the_paper_and_their_settings_are_valid(name):
    """At the published size and at the demo's, every row builds, and the rows of a table differ."""
    for base, steps in ((Settings(), 5004), (DEMO, 156)):
        rows = table(name).rows(base, steps)
        if base.batch_size == 256:
            assert [row.published for row in rows] == PUBLISHED[name]
        built = []
        for row in rows:
            method = METHODS[row.change.get("method", {}).get("name", "simsiam")]
            names = ("predictor", "target", "objective")
            own = {name: getattr(method, name) for name in names}
            built.append(from_dict(row.change, replace(base, method=replace(base.method, **own))))
        assert len({str(settings) for settings in built}) == len(rows)


def test_settings_at_the_published_batch_size():
    rows = {row.name: row.change for row in table("batch-size").rows(Settings(), 5004)}
    assert rows["batch 512"] == {"batch_size": 512}
    assert rows["batch 4096"] == {"batch_size": 4096, "optimizer": {"warmup_epochs": 10}}
    rows = table("alternation").rows(Settings(), 5004)
    assert [row.change.get("method", {}).get("momentum_every") for row in rows] == [
        None,
        10,
        100,
        5004,
        None,
    ]
    heads = [row.change["method"] for row in table("dimension").rows(Settings(), 1)]
    assert [(head["dim"], head["predictor_hidden"]) for head in heads] == [
        (256, 64), (512, 128), (1024, 256), (2048, 512),
    ]  # fmt: skip
    for row in table("stop-gradient").rows(Settings(), 1):  # 67.7 is the third row of Table 1
        assert row.change["optimizer"] == {"predictor_lr": "cosine"}
    assert table("batch-norm").rows(Settings(), 1)[0].change["optimizer"] == {"warmup_epochs": 10}


def test_mean_and_deviation_over_seeds_by_hand():
    outcomes = [
        {"knn": 0.5, "verdict": "healthy"},
        {"knn": 0.7, "verdict": "at risk"},
        {"verdict": "diverged"},
    ]
    study = Study(Row("a", {}, 12.3), outcomes, to_dict(Settings()))
    mean, deviation = study.mean("knn")
    assert mean == pytest.approx(0.6)
    assert deviation == pytest.approx(0.1 * 2**0.5)
    assert study.mean("std") is None
    facts = {"machine": "m", "date": "d", "torch": "t", "command": "siam reproduce predictor --epochs 5"}
    page = markdown(table("predictor"), [study], facts)
    assert "| a | - | - | 60.0 ± 14.1 | - | at risk, diverged, healthy | 12.3 |" in page
    assert (
        "|  | std × √d | rank | kNN (%) | retrieval (%) | verdict | published: linear, ImageNet (%) |" in page
    )
    assert "torch t; `siam reproduce predictor --epochs 5`." in page


def assert_figure_of_the_first_seeds(folder):
    """Check the PNG pixel by pixel, and in the SVG a line for each row in each of the three panels."""
    histories = {}
    for row in ("with stop-gradient", "without stop-gradient"):
        run = open_run(folder / f"{row.replace(' ', '-')}-seed0")
        histories[row] = History(run.metrics(), run.settings)
    drawn = io.BytesIO()
    figure2(histories).savefig(drawn, format="png", dpi=150)
    with Image.open(folder / "figure.png") as saved, Image.open(drawn) as expected:
        assert np.array_equal(np.array(saved), np.array(expected))
        assert np.ptp(np.array(saved)) > 100, "it is not blank"
    root = ElementTree.parse(folder / "figure.svg").getroot()
    panels = [group for group in root.iter() if group.get("id", "").startswith("axes_")]
    assert len(panels) == 3
    for panel in panels:
        assert sum(group.get("id", "").startswith("line2d_") for group in panel.iter()) >= len(histories)


def test_a_table_is_made_row_by_row_and_resumes(classes, tmp_path):
    """A run that was killed before its end is finished; finished runs are not repeated."""
    command = ["reproduce", "stop-gradient", classes, *TINY, "--out", tmp_path / "t"]
    done = run_cli(*command, "--seeds", 2, "--json", check=0)
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == ["with stop-gradient", "without stop-gradient"]
    assert [len(row["seeds"]) for row in found["rows"]] == [2, 2]
    assert found["rows"][1]["settings"]["method"]["target"] == "gradient"
    assert {"date", "machine", "torch"} <= set(found)
    typed = shlex.join(["siam", *map(str, command), "--seeds", "2", "--json"])
    assert found["command"] == typed
    assert f"`{typed}`" in (tmp_path / "t" / "table.md").read_text()
    assert_figure_of_the_first_seeds(tmp_path / "t")
    assert "4 of 4" in done.stderr

    metrics = tmp_path / "t" / "without-stop-gradient-seed1" / "metrics.jsonl"
    first = (tmp_path / "t" / "with-stop-gradient-seed0" / "metrics.jsonl").read_bytes()
    whole = metrics.read_text().splitlines()
    metrics.write_text("\n".join(whole[:-1]) + "\n")  # as if killed before its end was written
    again = json.loads(run_cli(*command, "--seeds", 2, "--json", check=0).stdout)
    assert (tmp_path / "t" / "with-stop-gradient-seed0" / "metrics.jsonl").read_bytes() == first
    assert again["rows"][0]["seeds"] == found["rows"][0]["seeds"]
    rows = [[o["knn"] for o in row["seeds"]] for row in again["rows"]]
    assert rows == [[o["knn"] for o in row["seeds"]] for row in found["rows"]]

    done = run_cli(*command, "--seeds", 2, "--optimizer.lr", 0.7, check=2)
    assert "has different settings: optimizer.lr (0.8 and 0.7)" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("siam: ")


def test_invalid_requests_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="unknown table 'predictr'; did you mean predictor"):
        reproduce("predictr", Overrides(), out=tmp_path)
    with pytest.raises(SettingsError, match="--scale imagenet requires DATA"):
        reproduce("predictor", Overrides(), scale="imagenet", out=tmp_path)
    with pytest.raises(SettingsError, match="seeds must be at least 1"):
        reproduce("predictor", Overrides(), seeds=0, out=tmp_path)


def test_the_set_is_listed_once_for_a_whole_table(classes, tmp_path, monkeypatch):
    listed = []

    def listing(data):
        listed.append(data)
        return open_images(data)

    monkeypatch.setattr("siam.paper.reproduce.open_images", listing)
    monkeypatch.setattr("siam.train.start.open_images", None)  # the runs are given the set
    assert cli.main(["reproduce", "similarity", str(classes), *TINY, "--out", str(tmp_path / "t")]) == 0
    assert listed == [str(classes)]


def test_a_row_that_diverges_is_a_result(classes, tmp_path, capsys):
    command = ["reproduce", "similarity", str(classes), *TINY, "--optimizer.lr", "1e30"]
    assert cli.main([*command, "--out", str(tmp_path / "t"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [[o["verdict"] for o in row["seeds"]] for row in json.loads(out)["rows"]] == 2 * [["diverged"]]
    assert "lower optimizer.lr" in " ".join(err.split())
