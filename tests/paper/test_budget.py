"""`siam reproduce budget`: all candidates for a short budget, the best third of them for the next."""

import json

import pytest

from siam.errors import SettingsError
from siam.methods import METHODS
from siam.paper import budget
from siam.paper.budget import CANDIDATES, Rung, reproduce_budget
from siam.plan.rules import LARGE, settings_for
from siam.settings.overrides import Overrides
from siam.settings.plain import from_dict


def test_every_candidate_is_valid_and_differs_from_the_others():
    built = set()
    for change in CANDIDATES.values():
        method = change.get("method", {}).get("name", "simclr")
        built.add(str(from_dict(change, settings_for(LARGE[0], "photos", 5000, method))))
    assert len(built) == len(CANDIDATES)
    assert {change.get("method", {}).get("name", "simclr") for change in CANDIDATES.values()} == set(METHODS)


def test_candidates_are_ranked_by_knn_or_without_labels_by_view_retrieval():
    labeled = Rung("3m", {"a": [{"knn": 0.5}, {"knn": 0.7}], "b": [{"knn": 0.7}], "diverged": [{}]})
    assert labeled.ranked() == ["b", "a", "diverged"]
    assert labeled.score("a") == pytest.approx((0.6, 0.1414), abs=1e-4)
    unlabeled = Rung("3m", {"a": [{"knn": None, "retrieval": 0.1}], "b": [{"knn": None, "retrieval": 0.2}]})
    assert unlabeled.ranked() == ["b", "a"]


@pytest.mark.parametrize("budgets", [(), ("10m", "3m"), ("three",)])
def test_budgets_must_ascend(budgets):
    with pytest.raises(SettingsError, match="budgets"):
        reproduce_budget(Overrides({"data": "demo"}), budgets)


@pytest.mark.slow
def test_the_best_third_trains_for_the_next_budget_and_finished_runs_are_kept(classes, tmp_path, monkeypatch):
    chosen = ("simclr", "simsiam", "simclr, lr x 2")
    monkeypatch.setattr(budget, "CANDIDATES", {name: CANDIDATES[name] for name in chosen})
    monkeypatch.setattr(budget, "cpu_seconds_per_step", lambda images, settings: 0.5)
    own = {"data": str(classes), "width": 0.125, "batch_size": 8, "views": {"size": 16}}
    out = tmp_path / "budget"
    reproduce_budget(Overrides(own), ("2s", "4s"), out=out)
    table = json.loads((out / "table.json").read_text())
    first, second = (rung["candidates"] for rung in table["budgets"])
    assert set(first) == set(chosen)
    (survivor,) = second
    assert first[survivor][0]["knn"] == max(runs[0]["knn"] for runs in first.values())
    assert [run["steps"] for runs in first.values() for run in runs] == [4, 4, 4]
    assert [run["steps"] for runs in second.values() for run in runs] == [8]
    written = {file: file.stat().st_mtime_ns for file in out.glob("*/*/encoder.safetensors")}
    assert len(written) == 4
    reproduce_budget(Overrides(own), ("2s", "4s"), out=out)
    assert {file: file.stat().st_mtime_ns for file in written} == written, "nothing was trained again"
    page = (out / "table.md").read_text()
    assert all(f"| {name} |" in page for name in chosen)
