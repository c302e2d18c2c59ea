"""The examples of docs/contributing.md: each is added as one file, and shows up everywhere it should."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import siam
from siam import methods
from siam.cli import command as cli
from siam.data.sharding import shard
from siam.data.sources import open_images
from siam.errors import DataError, SettingsError
from siam.metrics import Look
from siam.network import Network
from siam.objectives import build_objective
from siam.paper.tables import TABLES, Row, Table
from siam.recipes import DEMO, starting_point
from siam.report.page import write_report
from siam.report.published import row_of
from siam.runs.folder import open_run
from siam.settings.plain import from_dict
from siam.settings.pretraining import MonitorSettings, OptimizerSettings
from tests.conftest import TINY, save_images
from tests.report.reading import read

ROOT = Path(siam.__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n# (siam/\S+)\n(.*?)^```",
    (ROOT / "docs/contributing.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
FILES = {path: code for path, code in BLOCKS if path != "siam/methods.py"}
LINES = "\n".join(code for path, code in BLOCKS if path == "siam/methods.py")
METHODS_PY = Path(methods.__file__).read_text().replace("\nMETHODS = ", f"\n{LINES}\nMETHODS = ")


@pytest.fixture(autouse=True, scope="module")
def charts():
    """Draw them."""


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    """Add every file of the page to its package, and the lines to methods.py."""
    torch.set_num_threads(1)
    root, modules = tmp_path_factory.mktemp("added"), []
    with pytest.MonkeyPatch.context() as patch:
        for path, code in FILES.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
            package = import_module(".".join(Path(path).parent.parts))
            patch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
            modules.append(f"{package.__name__}.{file.stem}")
        namespace = {"__name__": "methods"}
        exec(compile(METHODS_PY, methods.__file__, "exec"), namespace)
        for name, method in namespace["METHODS"].items():
            patch.setitem(methods.METHODS, name, method)
        yield root
    for name in modules:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """30 images with class folders in train/ and val/, in a SQLite file; two of them are the same."""
    folder = tmp_path_factory.mktemp("images")
    with sqlite3.connect(folder / "images.sqlite") as file:
        file.execute("CREATE TABLE images (path TEXT PRIMARY KEY, image BLOB)")
        for split, count in (("train", 10), ("val", 5)):
            for name, level in (("dark", 60), ("light", 200)):
                below = folder / split / name
                below.mkdir(parents=True)
                save_images(below, count, seed=level + count, level=level)
                if (split, name) == ("val", "dark"):
                    shutil.copy(below / "001.jpg", below / "003.jpg")
                for image in below.iterdir():
                    key = f"{split}/{name}/{image.name}"
                    file.execute("INSERT INTO images VALUES (?, ?)", (key, image.read_bytes()))
    file.close()
    return folder / "images.sqlite"


@pytest.fixture(scope="module")
def trained(added, database, tmp_path_factory):
    """A run of Barlow Twins on the database by the command: its folder, and what it printed."""
    out, patch = tmp_path_factory.mktemp("runs") / "run", pytest.MonkeyPatch()
    said, printed = (out.parent / name for name in ("stderr", "stdout"))
    with said.open("w") as stderr, printed.open("w") as stdout:
        patch.setattr(sys, "stderr", stderr)
        patch.setattr(sys, "stdout", stdout)
        args = ["pretrain", str(database), "--method", "barlow_twins", *TINY, "--out", str(out), "--json"]
        status = cli.main(args)
        patch.undo()
    assert status == 0, said.read_text()
    return out, said.read_text(), json.loads(printed.read_text())


def test_the_page_shows_one_of_each():
    assert len(LINES.splitlines()) == 5
    assert list(FILES) == [
        "siam/objectives/barlow_twins.py",
        "siam/metrics/stable_rank.py",
        "siam/verbs/alike.py",
        "siam/data/sources/sqlite.py",
        "siam/report/sections/notes.py",
    ]


def test_the_examples_pass_the_linter(added):
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for verb in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *verb, *config, str(added)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_copy_of_the_package_with_these_files_lists_them_in_its_help(tmp_path):
    """In processes of their own, because help is made while siam is imported."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(siam.__file__).parent, tmp_path / "siam", ignore=skip)
    for path, code in FILES.items():
        (tmp_path / path).write_text(code)
    (tmp_path / "siam" / "methods.py").write_text(METHODS_PY)

    def help_of(*args):
        command = [sys.executable, "-m", "siam", *args, "--help"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "80"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
        )
        return " ".join(re.sub(r"[│|]", " ", done.stdout).split())

    assert "alike list the pairs of images that look most alike" in help_of()
    shown = help_of("pretrain")
    assert "simsiam, byol, simclr, swav, moco_v2, moco_v3, barlow_twins" in shown
    assert "barlow_twins, cosine, cross_entropy" in shown


# ---------------------------------------------------------------------- method and objective


def test_the_objective_trains_and_the_report_names_it(trained):
    out, _, outcome = trained
    run = open_run(out)
    assert (run.settings.method.name, run.settings.method.objective) == ("barlow_twins", "barlow_twins")
    losses = [record["loss"] for record in run.metrics() if record["kind"] == "step"]
    assert len(losses) == outcome["steps"] == 4
    assert all(0 < loss < 100 for loss in losses)
    words = "Barlow Twins: no predictor, gradient through both branches, cross-correlation near the identity"
    assert words in (out / "report.html").read_text()
    assert row_of("barlow_twins") is None


def test_unknown_names_are_answered_with_these(capsys, tmp_path):
    for flag, wrong, right in (
        ("--method", "barlow_twin", "barlow_twins"),
        ("--method", "moco_v4", "moco_v3"),
    ):
        assert cli.main(["pretrain", flag, wrong, "--out", str(tmp_path / "run")]) == 2
        assert f"did you mean {right}" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="did you mean barlow_twins"):
        replace(siam.SIMSIAM, objective="barlow_twin")


def test_the_settings_of_a_method_that_no_recipe_lists():
    """Heads as published for SimSiam on ImageNet, and as in the recipe elsewhere."""
    barlow_twins = methods.METHODS["barlow_twins"]
    change = {"method": {"name": "barlow_twins"}}
    imagenet = from_dict(change, starting_point("imagenet", "barlow_twins", "imagenet", 400, 10**6))
    assert imagenet.method == barlow_twins
    assert imagenet.optimizer == OptimizerSettings()
    demo = from_dict(change, starting_point("demo", "barlow_twins", "demo", 16, 5000))
    assert demo.method == replace(
        DEMO.method, name="barlow_twins", predictor="none", target="gradient", objective="barlow_twins"
    )


def test_barlow_twins_at_both_extremes():
    """Equal views of uncorrelated dimensions: 0. Opposite views: each of d diagonal entries costs 4."""
    objective = build_objective(methods.METHODS["barlow_twins"])
    x = torch.linalg.qr(torch.cat([torch.ones(8, 1), torch.randn(8, 3)], dim=1))[0][:, 1:]  # mean 0 (8, 3)
    scale = 8 / 7  # std has 7 in the denominator, the mean of products 8
    expected = 3 * (1 - 1 / scale) ** 2
    assert float(objective(x, x, x, x)) == pytest.approx(expected, abs=1e-5)
    assert float(objective(x, x, -x, -x)) == pytest.approx(3 * (1 + 1 / scale) ** 2, abs=1e-5)


def test_its_gradient_flows_through_both_branches():
    method = replace(methods.METHODS["barlow_twins"], projector_layers=2, projector_hidden=16, dim=8)
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    outputs = network(torch.randn(6, 3, 16, 16), torch.randn(6, 3, 16, 16))
    assert all(x.requires_grad for x in outputs)
    build_objective(method)(*outputs).backward()
    assert next(network.backbone.parameters()).grad.abs().sum() > 0


def test_both_are_rows_of_a_table_that_has_the_metric_as_a_column(database, tmp_path, monkeypatch, capsys):
    rows = [
        Row("MoCo v3", {"method": {"name": "moco_v3"}}, published=None),
        Row("Barlow Twins", {"method": {"name": "barlow_twins"}}, published=None),
    ]
    monkeypatch.setitem(TABLES, "mine", Table("Mine", "Sec. 0", lambda base, steps: rows))
    flags = [*TINY, "--epochs", "1", "--out", str(tmp_path / "table"), "--json"]
    assert cli.main(["reproduce", "mine", str(database), *flags]) == 0, capsys.readouterr().err
    table = json.loads(capsys.readouterr().out)
    page = (tmp_path / "table" / "table.md").read_text()
    columns = ["", "std × √d", "rank", "kNN (%)", "retrieval (%)", "stable rank", "verdict"]
    head = [cell.strip() for cell in page.split("\n")[2].strip("|").split("|")]
    assert head == [*columns, "published: linear, ImageNet (%)"]
    words = (
        "Moco V3: learned predictor, momentum encoder as the target branch",
        "Barlow Twins: no predictor",
    )
    for row, method, shown in zip(table["rows"], ("moco_v3", "barlow_twins"), words, strict=True):
        run = open_run(row["seeds"][0]["run"])
        assert run.settings.method.objective == methods.METHODS[method].objective
        assert shown in (run.folder / "report.html").read_text()
        value = row["seeds"][0]["stable_rank"]
        assert 1 <= value <= 20
        line = next(line for line in page.split("\n") if line.startswith(f"| {row['name']} |"))
        assert line.split("|")[6].strip() == f"{value:.2f}"


# ------------------------------------------------------------------------------------ metric


def test_the_metric_at_both_extremes():
    stable_rank = import_module("siam.metrics.stable_rank")

    def measure(x):
        return stable_rank.measure(Look(MonitorSettings(), x, x))

    assert measure(torch.eye(5)) == pytest.approx(5)
    assert measure(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 8))) == pytest.approx(1)
    assert measure(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx((4 + 1 + 1) / 4)


def test_the_metric_is_in_the_log_the_terminal_and_the_result(trained):
    out, said, outcome = trained
    values = [record["stable_rank"] for record in open_run(out).metrics() if record["kind"] == "epoch"]
    assert len(values) == 2
    assert all(1 <= value <= 20 for value in values)
    lines = [line for line in said.splitlines() if line.lstrip().startswith("epoch ")]
    for line, value in zip(lines, values, strict=True):
        assert f"  stable rank {value:.2f}  " in line
    assert outcome["stable_rank"] == values[-1]


def test_the_metric_has_a_panel_and_a_card_on_the_page(trained):
    out, _, outcome = trained
    page = read(out)
    (card,) = [card for card in page.find("div", "card") if "stable rank" in card.words()]
    assert card.words().startswith(f"{outcome['stable_rank']:.2f} stable rank of the features")
    figures = page.find("div", "curves")[0].find("figure")
    (figure,) = [f for f in figures if f.find("svg")[0].attributes["aria-label"] == "stable_rank"]
    assert figure.find("figcaption")[0].text == "Near 1 if a single direction dominates."


# ------------------------------------------------------------------ verb, source and section


def test_the_verb_runs_explains_itself_and_prints_json(trained, database, capsys):
    run = str(trained[0])
    with pytest.raises(SystemExit, match="0"):
        cli.main(["alike", "--help"])
    shown = " ".join(re.sub(r"[│|]", " ", capsys.readouterr().out).split())
    for text in ("siam alike", "whose vectors are most similar", "RUN", "DATA", "--pairs INT", "--json"):
        assert text in shown
    args = ["alike", run, str(database), "--pairs", "3", "--workers", "0"]
    assert cli.main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1.000  val/dark/001.jpg  val/dark/003.jpg"
    assert len(lines) == 3
    assert cli.main([*args, "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [f"{similarity:.3f}  {one}  {other}" for similarity, one, other in pairs] == lines
    assert cli.main(["alike", run, str(database), "--pair", "3"]) == 2
    assert "unknown setting '--pair'; did you mean --pairs?" in capsys.readouterr().err


def test_the_source_splits_labels_embeds_and_shards(trained, database, tmp_path):
    out, said, outcome = trained
    assert "20 images in train/, 10 for validation in val/, 2 classes" in " ".join(said.split())
    assert outcome["pixel_knn"] >= 0.9  # its labels: pixels tell dark from light
    vectors, paths = siam.embed(out, database, workers=0)
    assert paths[:2] == ["train/dark/000.jpg", "train/dark/001.jpg"]
    assert len(paths) == len(vectors) == 30
    expected, names = siam.embed(out, database.parent, workers=0)  # the folder that the file was made from
    assert names == paths
    np.testing.assert_array_equal(vectors, expected)
    assert shard(database, tmp_path / "shards")["images"] == 30


def test_the_source_is_named_where_no_source_is_recognized(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(DataError, match=r"a \.sqlite file of images"):
        open_images(tmp_path / "notes.md")
    (tmp_path / "broken.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match=r"broken\.sqlite cannot be read: file is not a database"):
        open_images(tmp_path / "broken.sqlite")


def test_the_section_is_on_the_page_and_escaped(trained):
    out = trained[0]
    assert "<h2>Notes</h2>" not in write_report(out).read_text()
    (out / "notes.txt").write_text("lr <b>0.1</b> & up\n")
    page = write_report(out).read_text()
    (out / "notes.txt").unlink()
    shown = "<h2>Notes</h2>\n<p>lr &lt;b&gt;0.1&lt;/b&gt; &amp; up\n</p>"
    assert page.index("<header") < page.index(shown) < page.index("<h2>Curves")
