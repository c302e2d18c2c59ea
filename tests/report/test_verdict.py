"""The top of the page: verdict, advice, the method in words, key numbers."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest

from siam.measure.collapse import ADVICE
from siam.methods import BYOL, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method
from siam.report.sections.verdict import FIGURE3
from tests.report.reading import SMALL, START, WHOLE, body, epoch, read, step


def test_before_the_first_epoch(run):
    root = read(run([START, step(3), step(6, loss=-0.7)]))
    shown = body(root)
    assert root.find("span", "pill")[0].text == "no verdict yet"
    assert "−0.700" in shown
    assert "6 steps" in shown
    assert "no kNN curve" not in shown, "it is still to come"
    assert "step" in [text.text for text in root.find("text")], "the x axis counts steps"


def test_a_run_in_progress_says_so(run):
    root = read(run(WHOLE[:4]))
    assert root.find("span", "pill")[0].text == "healthy so far"


@pytest.mark.parametrize(
    ("verdict", "std", "style"), [("collapsed", 0.013, "collapsed"), ("at risk", 0.41, "risk")]
)
def test_problems_come_with_advice(run, verdict, std, style):
    root = read(run([START, step(10), epoch(0, verdict=verdict, std=std)]))
    pill = root.find("span", "pill")[0]
    assert pill.text == f"{verdict} so far"
    assert style in pill.attributes["class"].split()
    assert f"{std:.3f}" in root.find("p", "meaning")[0].text
    advice = root.find("p", "advice")[0].text
    assert advice.lower() == ADVICE[verdict].lower()


@pytest.mark.parametrize(
    ("knn", "added"),
    [
        (0.1, "Not useful yet: no better than raw pixels or the untrained network (kNN 10.0 %"),
        (0.312, "Not useful yet: no better than raw pixels (kNN 31.2 %"),
        (0.32, "Learned: 0.8 points above the better baseline (kNN 32.0 %"),
        (None, ""),
    ],
)
def test_a_healthy_run_that_learns_nothing_is_recognized(run, knn, added):
    root = read(run([START, step(10), epoch(0, knn=knn)]))
    meaning = root.find("p", "meaning")[0].text
    assert added in meaning
    assert ("--for" in body(root)) == ("no better" in meaning) == ("Not useful" in added)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite(run, value):
    root = read(run([START, step(10), epoch(0), step(15, loss=value, std=value)]))
    assert root.find("span", "pill")[0].text == "diverged"
    assert "optimizer.lr" in root.find("p", "advice")[0].text
    assert "not finite" in body(root)
    assert len(root.find("svg")) == 7


def test_unreadable_files_are_counted(run):
    assert "unreadable.txt" not in body(read(run(WHOLE)))
    folder = run(WHOLE)
    (folder / "unreadable.txt").write_text("a.jpg\tthe file is empty\nb.jpg\tis not an image\n")
    assert "; 2 unreadable, listed in unreadable.txt" in body(read(folder))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            SIMSIAM,
            "SimSiam: learned predictor, stop-gradient on the target branch, cosine similarity, symmetric",
        ),
        (BYOL, "BYOL: learned predictor, momentum encoder as the target branch, cosine similarity"),
        (SIMCLR, "SimCLR: no predictor, gradient through both branches, contrast with the batch"),
        (SWAV, "SwAV: no predictor, stop-gradient on the target branch, swapped prediction of clusters"),
        (MOCO_V2, "MoCo v2: no predictor, momentum encoder as the target branch, contrast with a queue"),
    ],
)
def test_the_method_in_words(run, method, words):
    root = read(run([], replace(SMALL, method=method)))
    assert root.find("dd")[0].words().startswith(words)
    assert root.find("span", "changed") == []


def test_differences_from_the_published_method_are_marked(run):
    root = read(run([], replace(SMALL, method=replace(SMALL.method, target="gradient"))))
    (changed,) = root.find("span", "changed")
    assert changed.text == "gradient through both branches (changed)"


def test_every_component_of_figure_3_has_a_description():
    hints = get_type_hints(Method)
    for name, choices in FIGURE3.items():
        if name == "objective":  # each objective names itself
            continue
        assert set(choices) == set(get_args(hints[name])), name


def test_knn_is_shown_with_its_baselines(run):
    (card,) = read(run(WHOLE)).find("div", "wide")
    assert card.find("b")[0].text == "67.3 %"
    bars = [(bar.attributes["class"], bar.attributes["style"]) for bar in card.find("i")]
    assert bars == [("own", "width:67.3%"), ("", "width:31.2%"), ("", "width:20.7%")]


@pytest.mark.parametrize(("rate", "shown"), [(309.4, "309"), (12345.0, "12,345"), (0.123, "0.12")])
def test_rates_of_all_sizes(run, rate, shown):
    cards = read(run([step(5, pairs_per_second=rate)])).find("div", "card")
    assert shown in [card.find("b")[0].text for card in cards]
