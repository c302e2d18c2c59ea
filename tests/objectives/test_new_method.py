"""A new method, as docs/methods.md describes it: one file and one line."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import siam
from siam import methods, objectives
from siam.cli import command as cli
from siam.errors import SettingsError
from siam.methods import METHODS
from siam.network import Network
from siam.objectives import build_objective
from siam.paper.tables import Row
from siam.plugins import names
from siam.report.published import row_of
from siam.runs.folder import open_run
from siam.settings.plain import from_dict
from siam.settings.pretraining import OptimizerSettings, Settings
from siam.settings.recipes import DEMO, starting_point
from tests.conftest import TINY

DOCS = Path(siam.__file__).parents[1] / "docs" / "methods.md"


def example(name):
    """Return the code block of the docs that begins with `# name`."""
    return re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]


@pytest.fixture
def barlow_twins(tmp_path, monkeypatch):
    """Add the file to the objectives, and return the method that its line in methods.py defines."""
    folder = tmp_path / "objectives"
    folder.mkdir()
    (folder / "barlow_twins.py").write_text(example("siam/objectives/barlow_twins.py"))
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(folder)])
    page = Path(methods.__file__).read_text()
    assert "\nMETHODS = " in page
    changed = page.replace("\nMETHODS = ", f"\n{example('siam/methods.py')}\nMETHODS = ")
    namespace = {"__name__": "methods"}
    exec(compile(changed, methods.__file__, "exec"), namespace)
    method = namespace["METHODS"]["barlow_twins"]
    monkeypatch.setitem(METHODS, "barlow_twins", method)
    yield method
    sys.modules.pop("siam.objectives.barlow_twins", None)


def test_it_trains_and_its_report_names_it(barlow_twins, photos, tmp_path, capsys):
    out = tmp_path / "run"
    status = cli.main(["pretrain", str(photos), "--method", "barlow_twins", *TINY, "--out", str(out)])
    assert status == 0, capsys.readouterr().err
    run = open_run(out)
    assert (run.settings.method.name, run.settings.method.objective) == ("barlow_twins", "barlow_twins")
    losses = [record["loss"] for record in run.metrics() if record["kind"] == "step"]
    assert len(losses) == 6
    assert all(0 < loss < 100 for loss in losses)
    page = (out / "report.html").read_text()
    words = "Barlow Twins: no predictor, gradient through both branches, cross-correlation near the identity"
    assert words in page
    assert row_of("barlow_twins") is None


def test_a_row_of_a_table_can_use_it(barlow_twins):
    """With SimSiam's published heads on ImageNet, and the recipe's heads elsewhere."""
    row = Row("Barlow Twins", {"method": {"name": "barlow_twins"}}, None)
    imagenet = from_dict(row.change, starting_point("imagenet", "barlow_twins", "imagenet", 400, 10**6))
    assert imagenet.method == barlow_twins
    assert imagenet.optimizer == OptimizerSettings()
    demo = from_dict(row.change, starting_point("demo", "barlow_twins", "demo", 16, 5000))
    assert demo.method == replace(
        DEMO.method, name="barlow_twins", predictor="none", target="gradient", objective="barlow_twins"
    )


def test_its_loss_at_both_extremes(barlow_twins):
    """Equal views with uncorrelated dimensions: 0. Opposite views: each of the d diagonal entries costs 4."""
    objective = build_objective(barlow_twins)
    x = torch.linalg.qr(torch.cat([torch.ones(8, 1), torch.randn(8, 3)], dim=1))[0][:, 1:]  # mean 0 (8, 3)
    scale = 8 / 7  # std has 7 in the denominator, the mean of products 8
    expected = 3 * (1 - 1 / scale) ** 2
    assert float(objective(x, x, x, x)) == pytest.approx(expected, abs=1e-5)
    assert float(objective(x, x, -x, -x)) == pytest.approx(3 * (1 + 1 / scale) ** 2, abs=1e-5)


def test_gradient_flows_through_both_branches(barlow_twins):
    method = replace(barlow_twins, projector_layers=2, projector_hidden=16, dim=8)
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    outputs = network(torch.randn(6, 3, 16, 16), torch.randn(6, 3, 16, 16))
    assert all(x.requires_grad for x in outputs)
    build_objective(method)(*outputs).backward()
    assert next(network.backbone.parameters()).grad.abs().sum() > 0


def test_without_the_file_there_is_no_such_objective():
    assert "barlow_twins" not in names("siam.objectives")
    with pytest.raises(SettingsError, match=r"method\.objective must be one of cosine, .*got 'barlow_twins'"):
        replace(siam.SIMSIAM, objective="barlow_twins")
    with pytest.raises(SettingsError, match="did you mean cosine"):
        replace(siam.SIMSIAM, objective="cosin")


@pytest.mark.parametrize("name", names("siam.objectives"))
def test_every_objective_has_a_builder_and_a_description(name):
    assert objectives.words(name)
    method = replace(siam.SIMSIAM, objective=name, dim=4, queue=16, prototypes=3)
    assert Settings(batch_size=8, method=method).method.objective == name
    p1, p2, z1, z2 = torch.randn(4, 6, 4)
    objective = build_objective(method, images=6)
    objective.before_step(torch.arange(6), epoch=1)
    loss = objective(p1, p2, z1, z2)
    assert loss.shape == ()
    assert loss.isfinite()
