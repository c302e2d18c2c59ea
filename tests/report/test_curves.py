"""The charts as data, not as pixels, and their panels on the page."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siam import metrics
from siam.methods import SIMCLR
from siam.report import curves
from siam.report.curves import figure2, panels
from siam.report.drawing import PALETTE, inline_svg, panel, thinned
from siam.runs.history import History
from siam.settings.pretraining import MonitorSettings
from tests.report.reading import SMALL, START, UNLABELED, WHOLE, body, epoch, read, step


def test_without_labels_the_rank_takes_the_place_of_knn(run):
    root = read(run(UNLABELED))
    shown = body(root)
    assert "kNN accuracy" not in shown
    assert "There is no kNN curve: the images have no labels." in shown
    figures = root.find("div", "curves")[0].find("figure")
    assert "effective rank" in figures[2].words()
    heights = [float(figure.find("svg")[0].attributes["viewbox"].split()[3]) for figure in figures]
    assert heights[:3] == [216] * 3, "points: large"
    assert all(height < 140 for height in heights[3:])


def test_knn_turned_off_is_distinguished_from_missing_labels(run):
    root = read(run(UNLABELED, replace(SMALL, monitor=MonitorSettings(knn_every=0))))
    assert "There is no kNN curve: monitor.knn_every is 0." in body(root)


@pytest.mark.parametrize(("rule", "said"), [("constant", True), ("cosine", False)])
def test_a_constant_learning_rate_of_the_predictor_is_mentioned(run, rule, said):
    settings_ = replace(SMALL, optimizer=replace(SMALL.optimizer, predictor_lr=rule))
    assert ("The predictor's own learning rate is constant." in body(read(run(WHOLE, settings_)))) == said


def panel_of(name, history):
    """Return the figure of one of the panels of the page."""
    (shown,) = [p for p in panels(history) if p.name == name]
    return panel(shown.draw, history, shown.title)


METRIC = """
ORDER = 15
TITLE = "alignment <of views>"
CAPTION = "Low & stable."
FORMAT = ".2f"
BASELINES = True

def measure(look):
    return None

def note(settings, records):
    return f"of {records['images']:,} images"
"""


def test_a_metric_is_added_by_one_file(run, tmp_path, monkeypatch):
    """It has a panel with its baselines, and a card with bars."""
    added = tmp_path / "added"
    added.mkdir()
    (added / "alignment.py").write_text(METRIC)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(added)])
    monkeypatch.delitem(sys.modules, "siam.metrics.alignment", raising=False)
    records = [
        {**START, "pixel_alignment": 0.75},
        step(10),
        epoch(0, alignment=0.5),
        epoch(1, alignment=0.25),
    ]
    root = read(run(records))
    (card,) = [card for card in root.find("div", "card") if "alignment" in card.words()]
    assert card.words().startswith("0.25 alignment <of views>, of 5,000 images this run")
    assert [bar.attributes["style"] for bar in card.find("i")] == ["width:33.3%", "width:100.0%"]
    assert [text.text for text in card.find("div", "bars")[0].find("span")][1::2] == ["0.25", "0.75"]
    (figure,) = [f for f in root.find("figure") if f.find("svg")[0].attributes["aria-label"] == "alignment"]
    assert figure.find("figcaption")[0].text == "Low & stable."
    assert {"alignment <of views>", "raw pixels 0.75"} <= {text.text for text in figure.find("text")}
    history = History(records, SMALL)
    np.testing.assert_allclose(lines(panel_of("alignment", history))["alignment"], [[1, 2], [0.5, 0.25]])


def test_every_panel_draws_its_quantity():
    history = History(WHOLE, SMALL)
    shown = panels(history)
    assert [p.name for p in shown] == [
        "loss",
        "std",
        "knn",
        "retrieval",
        "rank",
        "rank_z",
        "lr",
        "pairs_per_second",
    ]
    for p in shown:
        figure = panel(p.draw, history, p.title)
        assert figure.axes[0].get_title(loc="left") == p.title
        assert any(str(label).startswith(p.name) for label in lines(figure)), p.name


def lines(figure, panel_index=0):
    """Return the lines of a panel: label -> (x, y)."""
    return {line.get_label(): line.get_data() for line in figure.axes[panel_index].lines}


@given(dim=st.integers(1, 8192), std=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_std_is_drawn_against_one_over_the_root_of_d(dim, std):
    """As in Figure 2: the std of z/|z| itself, with a line at 1/sqrt(d)."""
    settings_ = replace(SMALL, method=replace(SMALL.method, dim=dim))
    figure = panel(curves.std, History([step(5, std=std), step(10), epoch(0, std=std)], settings_), "std")
    drawn = lines(figure)
    (reference,) = [data for label, data in drawn.items() if label.startswith("1/√d")]
    np.testing.assert_allclose(reference[1], 1 / np.sqrt(dim))
    np.testing.assert_allclose(drawn["std of steps"][1], np.array([std, 0.9]) / np.sqrt(dim))
    np.testing.assert_allclose(drawn["std of epochs"][1], [std / np.sqrt(dim)])
    low, high = figure.axes[0].get_ylim()
    assert low == 0
    assert high > 1 / np.sqrt(dim), "the line is in view"


def test_x_is_in_epochs_with_means_at_the_middle_of_theirs():
    drawn = lines(panel(curves.loss, History(WHOLE, SMALL), "loss"))
    np.testing.assert_allclose(drawn["loss of steps"], [[0.5, 1, 1.5, 2], [-0.5] * 4])
    np.testing.assert_allclose(drawn["loss of epochs"], [[0.5, 1.5], [-0.6, -0.6]])


def test_the_floor_is_drawn_for_the_cosine_alone():
    assert lines(panel(curves.loss, History(WHOLE, SMALL), "loss"))["minimum −1"][1] == [-1, -1]
    contrast = replace(SMALL, method=SIMCLR)
    assert "minimum −1" not in lines(panel(curves.loss, History(WHOLE, contrast), "loss"))


def test_losses_of_two_objectives_are_all_in_view():
    """As in the table of similarities: the floor at -1, then a cross-entropy near 6."""
    entropy = replace(SMALL, method=replace(SMALL.method, objective="cross_entropy"))
    high = [step(5, loss=6.2), step(10, loss=6.0), epoch(0, loss=6.1)]
    figure = figure2({"cosine": History(WHOLE, SMALL), "cross-entropy": History(high, entropy)})
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < -1
    assert top > 6.2


def test_a_run_without_one_finite_loss_leaves_the_figure_its_shape():
    lost = [step(5, loss=math.nan, std=math.nan), step(10, loss=math.nan, std=math.nan)]
    figure = figure2({"lost": History(lost, SMALL), "lost too": History(lost, SMALL)})
    figure.draw_without_rendering()
    assert all(ax.get_position().width > 0.2 for ax in figure.axes)


def test_knn_starts_at_random_initialization_with_both_references():
    drawn = lines(panel_of("knn", History(WHOLE, SMALL)))
    np.testing.assert_allclose(drawn["knn"], [[0, 1, 2], [0.207, 0.41, 0.67]])
    assert drawn["raw pixels 31.2 %"][1] == [0.312, 0.312]
    assert drawn["random init 20.7 %"][1] == [0.207, 0.207]


def test_epochs_without_knn_are_skipped():
    records = [epoch(0, knn=None), epoch(1, knn=0.5), epoch(2, knn=None), epoch(3, knn=0.6)]
    np.testing.assert_allclose(lines(panel_of("knn", History(records, SMALL)))["knn"], [[2, 4], [0.5, 0.6]])


def test_a_gap_where_the_loss_is_not_finite():
    records = [step(2), step(4, loss=math.inf), step(6, loss=math.nan), step(8)]
    figure = panel(curves.loss, History(records, SMALL), "loss")
    np.testing.assert_array_equal(np.isnan(lines(figure)["loss of steps"][1]), [False, True, True, False])
    assert np.isfinite(figure.axes[0].get_ylim()).all()


@given(n=st.integers(0, 3000))
def test_thinning_keeps_the_mean_and_the_order(n):
    x = np.arange(n, dtype=float)
    y = np.sin(x / 50)
    fewer_x, fewer_y = thinned(x, y)
    assert len(fewer_x) == len(fewer_y) <= 400
    assert (np.diff(fewer_x) > 0).all()
    if n > 400:
        spans = np.array_split(np.arange(n), 400)
        assert abs(fewer_y - np.interp(fewer_x, x, y)).max() < 0.01
        assert len(fewer_x) == len(spans)
        assert x[0] <= fewer_x[0] < 8
        assert x[-1] - 8 < fewer_x[-1] <= x[-1]


def test_figure_2_draws_a_line_for_each_run():
    without = [
        {**r, "loss": -1.0, "std": 0.01, "knn": 0.1} if r["kind"] in ("step", "epoch") else r for r in WHOLE
    ]
    figure = figure2({"with": History(WHOLE, SMALL), "without": History(without, SMALL)})
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["loss", "std of z/|z|", "kNN accuracy"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["with", "without"]
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert labels.count("std of epochs") == 2
    assert sum(label.startswith("1/√d") for label in labels) == 1
    last = [line.get_ydata()[-1] for line in figure.axes[2].lines if line.get_label() == "knn"]
    assert last == [0.67, 0.1]


def test_svg_is_deterministic_and_uses_the_colors_of_the_page():
    first, second = (inline_svg(panel_of("knn", History(WHOLE, SMALL)), "knn") for _ in range(2))
    assert first == second
    assert "http" not in first
    assert "font-family" not in first
    for color in PALETTE.values():
        assert color not in first
    assert "var(--line0)" in first
    assert "var(--ink)" in first
