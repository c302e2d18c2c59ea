"""The page is read as a browser reads it, and the figures as data, not as pixels."""

import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from siam.errors import RunError
from siam.measure.collapse import ADVICE
from siam.methods import BYOL, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method
from siam.protocols.result import Result, save_result
from siam.report import curves
from siam.report.curves import figure2, inline_svg, panel, thinned
from siam.report.page import FIGURE3, Pictures, write_report
from siam.runs.folder import save_settings
from siam.runs.history import History
from siam.settings.pretraining import MonitorSettings, Settings, ViewSettings

SMALL = Settings(
    backbone="resnet18", width=0.5, epochs=8, batch_size=32,
    views=ViewSettings(size=16, scale=(0.4, 1.0)), method=replace(SIMSIAM, dim=512, queue=1024),
)  # fmt: skip

VOID = {"meta", "link", "img", "br", "hr", "input", "base"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def find(self, tag: str, style: str | None = None) -> list["Element"]:
        """All descendants with this tag, and this class if one is given, in order."""
        found = []
        for child in self.children:
            if child.tag == tag and (style is None or style in (child.attributes.get("class") or "").split()):
                found.append(child)
            found += child.find(tag, style)
        return found

    def words(self) -> str:
        """The text in it and below it."""
        return " ".join([self.text, *(child.words() for child in self.children)])


class Page(HTMLParser):
    """A tree of elements; fails where an end tag does not meet its start tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert [element.tag for element in self.open] == ["root"], "left open"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> names an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].text += data


def read(folder) -> Element:
    """Write the report and read it: well formed, self-contained, ids unique, no script."""
    text = write_report(folder).read_text(encoding="utf-8")
    root = Page(text).root
    ids = []
    for element in every(root):
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"a handler: {name}={value}"
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith(("data:", "#")), value
            if name == "id":
                ids.append(value)
            for part in (value or "").split("url(")[1:]:
                assert part.startswith("#"), value
    assert len(ids) == len(set(ids))
    style = "".join(element.text for element in root.find("style"))
    assert "url(" not in style
    assert "@import" not in style
    return root


def every(element: Element) -> list[Element]:
    return [element, *(below for child in element.children for below in every(child))]


def step(n, per=10, **values) -> dict[str, Any]:
    defaults = {"loss": -0.5, "std": 0.9, "lr": 0.03, "pairs_per_second": 300.0}
    return {"kind": "step", "epoch": (n - 1) // per, "step": n, **defaults, **values}


def epoch(n, per=10, **values) -> dict[str, Any]:
    """The record at the end of epoch n, counted from 0."""
    defaults = {"loss": -0.6, "std": 0.95, "rank": 85.2, "rank_z": 40.1, "knn": 0.41, "verdict": "healthy"}
    return {"kind": "epoch", "epoch": n, "step": (n + 1) * per, "seconds": 60.0, **defaults, **values}


START = {
    "kind": "start", "pixel_knn": 0.312, "untrained_knn": 0.207, "images": 5000, "val_images": 1000,
    "parameters": 6_280_000, "device": "cpu", "precision": "bf16",
}  # fmt: skip
END = {
    "kind": "end", "verdict": "healthy", "loss": -0.91, "std": 0.97, "rank": 90.5, "knn": 0.673,
    "pixel_knn": 0.312, "untrained_knn": 0.207, "epochs": 2, "steps": 20, "seconds": 754.0,
    "pairs_per_second": 309.4,
}  # fmt: skip
WHOLE = [START, step(5), step(10), epoch(0), step(15), step(20), epoch(1, knn=0.67), END]
NO_LABELS = {"knn": None, "pixel_knn": None, "untrained_knn": None}


@pytest.fixture
def run(tmp_path):
    """make(records, settings, pictures) -> the folder of such a run."""

    def make(records, settings=SMALL, pictures=None, name="a-run"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_settings(folder, settings)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        if pictures is not None:
            pictures.save(folder)
        return folder

    return make


def some_pictures(side=16, pairs=3, queries=2, neighbours=4, name="c{}/{}.jpg", seed=0):
    rng = np.random.default_rng(seed)

    def images(*shape):
        return rng.integers(0, 256, (*shape, side, side, 3), dtype=np.uint8)

    return Pictures(
        images(pairs, 2),
        images(queries),
        images(queries, neighbours),
        [name.format(i % 2, i) for i in range(queries)],
        [[name.format(j % 2, 10 * i + j) for j in range(neighbours)] for i in range(queries)],
    )


def words(root: Element) -> str:
    return " ".join(root.find("body")[0].words().split())


def test_a_whole_run(run):
    root = read(run(WHOLE, pictures=some_pictures()))
    shown = words(root)
    assert root.find("h1")[0].text == "a-run"
    assert root.find("span", "pill")[0].text == "healthy"
    assert root.find("p", "advice") == []
    for number in ("67.3 %", "31.2 %", "20.7 %", "0.970", "90.5", "40.1", "−0.910", "12.6 min", "309"):
        assert number in shown, number
    for label in (
        "5,000 images",
        "1,000 to validate",
        "6.3 million",
        "cpu, bf16",
        "2 of 8 epochs",
        "20 steps",
    ):
        assert label in shown, label
    assert "no kNN" not in shown
    titles = [text.text for text in root.find("text") if "font-weight" in (text.attributes["style"] or "")]
    assert titles[:3] == ["loss", "std of z/|z|", "kNN accuracy"]
    assert titles[3:] == ["effective rank of the features", "learning rate", "pairs per second"]


def test_nothing_logged(run):
    root = read(run([]))
    assert root.find("span", "pill")[0].text == "no verdict yet"
    assert root.find("svg") == []
    assert root.find("img") == []
    assert root.find("div", "card") == []
    assert "Nothing has been logged yet" in words(root)


def test_before_the_first_epoch(run):
    root = read(run([START, step(3), step(6, loss=-0.7)]))
    shown = words(root)
    assert root.find("span", "pill")[0].text == "no verdict yet"
    assert "−0.700" in shown
    assert "6 steps" in shown
    assert "no kNN curve" not in shown, "it is still to come"
    assert "step" in [text.text for text in root.find("text")], "the x axis counts steps"


def test_a_run_in_progress_says_so(run):
    root = read(run(WHOLE[:4]))
    assert root.find("span", "pill")[0].text == "healthy so far"


def test_without_labels_the_rank_takes_the_place_of_knn(run):
    records = [{name: NO_LABELS.get(name, value) for name, value in record.items()} for record in WHOLE]
    root = read(run(records))
    shown = words(root)
    assert "kNN accuracy" not in shown
    assert "There is no kNN curve: these images have no labels." in shown
    third = root.find("div", "curves")[0].find("figure")[2]
    assert "effective rank" in third.words()


def test_broken_files_are_told(run):
    assert "unreadable.txt" not in words(read(run(WHOLE)))
    folder = run(WHOLE)
    (folder / "unreadable.txt").write_text("a.jpg\tthe file is empty\nb.jpg\tis not an image\n")
    assert "; not all could be read: unreadable.txt lists 2" in words(read(folder))


def test_knn_turned_off_is_not_a_lack_of_labels(run):
    records = [{name: NO_LABELS.get(name, value) for name, value in record.items()} for record in WHOLE]
    root = read(run(records, replace(SMALL, monitor=MonitorSettings(knn_every=0))))
    assert "There is no kNN curve: monitor.knn_every is 0." in words(root)


@pytest.mark.parametrize(
    ("verdict", "std", "style"), [("collapsed", 0.013, "collapsed"), ("at risk", 0.41, "risk")]
)
def test_what_is_wrong_comes_with_advice(run, verdict, std, style):
    root = read(run([START, step(10), epoch(0, verdict=verdict, std=std)]))
    pill = root.find("span", "pill")[0]
    assert pill.text == f"{verdict} so far"
    assert style in pill.attributes["class"].split()
    assert f"{std:.3f}" in root.find("p", "meaning")[0].text
    advice = root.find("p", "advice")[0].text
    assert advice.lower() == ADVICE[verdict].lower()


@pytest.mark.parametrize(
    ("knn", "told"),
    [
        (0.1, "Yet kNN is no better than with raw pixels or random initialisation."),
        (0.312, "Yet kNN is no better than with raw pixels."),
        (0.32, ""),
        (None, ""),
    ],
)
def test_a_healthy_run_that_learns_nothing_is_told_apart(run, knn, told):
    root = read(run([START, step(10), epoch(0, knn=knn)]))
    meaning = root.find("p", "meaning")[0].text
    assert meaning.endswith(told)
    assert ("no better" in meaning) == bool(told)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite(run, value):
    root = read(run([START, step(10), epoch(0), step(15, loss=value, std=value)]))
    assert root.find("span", "pill")[0].text == "diverged"
    assert "optimizer.lr" in root.find("p", "advice")[0].text
    assert "not finite" in words(root)
    assert len(root.find("svg")) == 6


NASTY = "<img src=x onerror=alert(1)>\"'&amp;</style></script><b>\x00\x1b[31m\u202e\udcff\n.jpg"


def test_names_cannot_become_markup(run):
    plain = read(run(WHOLE, pictures=some_pictures()))
    nasty = some_pictures(name="c{}/{}" + NASTY)
    folder = run(
        WHOLE, replace(SMALL, data=NASTY.replace("\udcff", ""), backbone="<b>"), nasty, name="<i>&'\""
    )
    root = read(folder)
    assert [e.tag for e in every(root)] == [e.tag for e in every(plain)], (
        "the same elements as with plain names"
    )
    assert root.find("h1")[0].text == "<i>&'\""
    caption = root.find("div", "near")[0].find("figure")[0].attributes["title"]
    assert caption.startswith("c0/0<img src=x onerror=alert(1)>\"'&amp;</style></script><b>")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in page)


def test_names_without_classes_are_shown_without_borders(run):
    root = read(run([], pictures=some_pictures(name="photos/{1}.jpg")))
    figures = root.find("div", "near")[0].find("figure")
    assert {figure.attributes["class"] for figure in figures} == {""}
    assert figures[0].find("figcaption")[0].text == "0.jpg"


def test_neighbours_are_marked_by_class(run):
    root = read(run([], pictures=some_pictures(queries=2, neighbours=3)))
    rows = root.find("div", "near")[0].children
    marks = [[figure.attributes["class"] for figure in row.find("figure")] for row in rows]
    # Queries are of classes c0, c1; the neighbours of each of c0, c1, c0.
    assert marks == [["", "same", "other", "same"], ["", "other", "same", "other"]]
    assert "3 of 6 are of the same class" in words(root)


@pytest.mark.parametrize(("side", "small"), [(8, 64), (16, 64), (28, 56), (32, 64), (48, 48), (224, 64)])
def test_small_images_grow_by_whole_pixels(run, side, small):
    root = read(run([], pictures=some_pictures(side, pairs=1, queries=1, neighbours=1)))
    (box,) = root.find("div", "pairs")
    assert ("pixels" in box.attributes["class"].split()) == (side <= 48)
    assert f"--small:{small}px" in box.attributes["style"]


def test_the_page_stays_under_2_mb(run):
    """Noise is the worst that JPEG can get; the log is that of a run of weeks."""
    records = [START]
    for n in range(800):
        records += [step(100 * n + i, 100, loss=-0.5 - 0.001 * (i % 7)) for i in range(1, 101, 2)]
        records.append(epoch(n, 100))
    folder = run(records, pictures=some_pictures(224, pairs=64, queries=16, neighbours=16))
    read(folder)
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_the_page_is_a_function_of_the_run(run):
    folder = run(WHOLE, pictures=some_pictures())
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert sorted(file.name for file in folder.iterdir()) == [
        "metrics.jsonl", "pictures.npz", "report.html", "settings.yaml",
    ]  # fmt: skip


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, len(WHOLE) - 1)), unknown=st.sets(st.sampled_from(list(NO_LABELS))))
def test_any_record_may_be_absent(run, kept, unknown):
    records = [
        {name: None if name in unknown else value for name, value in WHOLE[i].items()} for i in sorted(kept)
    ]
    root = read(run(records))
    assert ("knn" in unknown or not kept & {3, 6}) == ("Validation images named" not in words(root))


RESULT = Result("knn", 0.673, None, (0.64, 0.7), {}, 5000, 1000, held_out=False, seconds=3.0)


def test_evaluations_that_end_together_are_all_kept(run):
    folder, names = run([]), [str(i) for i in range(12)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        list(pool.map(save_result, [folder] * 12, [RESULT] * 12, names))
    kept = json.loads((folder / "evaluations.json").read_text())
    assert sorted(entry["data"] for entry in kept) == sorted(names)


def test_evaluations_are_told_where_there_are_any(run):
    folder = run([])
    assert read(folder).find("div", "evaluation") == []
    save_result(folder, RESULT, NASTY.replace("\udcff", ""))
    (table,) = read(folder).find("div", "evaluation")
    assert "67.3 %" in table.words()
    assert "<img src=x" in table.words(), "as text"


def test_all_settings_are_told(run):
    root = read(run([]))
    rows = {row.find("th")[0].text: row.find("td") for row in root.find("details")[0].find("tr")}
    assert rows["batch_size"][0].text == "32"
    assert rows["scale"][0].text == "0.4 to 1"
    assert rows["momentum_schedule"][0].text == "cosine"
    assert rows["method"] == []


@pytest.mark.parametrize(
    ("name", "method", "told"),
    [
        (
            "simsiam",
            SIMSIAM,
            "SimSiam: learned predictor, stop-gradient on the target branch, cosine similarity",
        ),
        ("byol", BYOL, "BYOL: learned predictor, slow copy of the encoder"),
        ("simclr", SIMCLR, "SimCLR: no predictor, gradient through both branches, contrast with the batch"),
        ("swav", SWAV, "SwAV: no predictor, stop-gradient on the target branch, swapped clusters"),
        (
            "moco_v2",
            MOCO_V2,
            "MoCo v2: no predictor, slow copy of the encoder as the target branch, contrast with",
        ),
    ],
)
def test_the_method_in_words(run, name, method, told):
    root = read(run([], replace(SMALL, method=method)))
    assert told in " ".join(root.find("dd")[0].words().split()).replace(" ,", ",")
    assert root.find("span", "changed") == []


def test_what_differs_from_the_published_method_is_marked(run):
    root = read(run([], replace(SMALL, method=replace(SMALL.method, target="gradient"))))
    assert [span.text for span in root.find("span", "changed")] == [
        "gradient through both branches (changed)"
    ]


def test_every_choice_of_figure_3_has_words():
    hints = get_type_hints(Method)
    for name, choices in FIGURE3.items():
        if name == "objective":  # each in its own file
            continue
        assert set(choices) == set(get_args(hints[name])), name


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunError, match=r"holds no settings\.yaml"):
        write_report(tmp_path)


def test_pictures_come_back_as_they_went(tmp_path):
    pictures = some_pictures(name="ünï/{0}{1}\udcff.jpg")
    pictures.save(tmp_path)
    back = Pictures.load(tmp_path)
    for name in ("pairs", "queries", "neighbours"):
        np.testing.assert_array_equal(getattr(back, name), getattr(pictures, name))
    assert back.query_names == pictures.query_names
    assert back.neighbour_names == pictures.neighbour_names


def test_no_neighbours_at_all(run):
    root = read(run([], pictures=some_pictures(pairs=0, queries=0)))
    assert root.find("img") == []


def test_no_pictures(tmp_path):
    assert Pictures.load(tmp_path) is None


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 torn", b"not a zip file"])
def test_pictures_that_cannot_be_read(tmp_path, contents):
    (tmp_path / "pictures.npz").write_bytes(contents)
    with pytest.raises(RunError, match="delete it to go on without"):
        Pictures.load(tmp_path)


def test_pickled_pictures_are_refused(tmp_path):
    np.savez(tmp_path / "pictures.npz", pairs=np.array([{}], dtype=object))
    with pytest.raises(RunError, match="cannot be read"):
        Pictures.load(tmp_path)


# The figures.


def lines(figure, panel_index=0):
    """label -> (x, y) of what is drawn in a panel."""
    return {line.get_label(): line.get_data() for line in figure.axes[panel_index].lines}


@given(dim=st.integers(1, 8192), std=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_std_is_drawn_against_one_over_the_root_of_d(dim, std):
    """As in Figure 2: the std of z/|z| itself, with a line at 1/sqrt(d)."""
    settings_ = replace(SMALL, method=replace(SMALL.method, dim=dim))
    figure = panel(curves.std, History([step(5, std=std), step(10), epoch(0, std=std)], settings_))
    drawn = lines(figure)
    (reference,) = [data for label, data in drawn.items() if label.startswith("1/√d")]
    np.testing.assert_allclose(reference[1], 1 / np.sqrt(dim))
    np.testing.assert_allclose(drawn["std of steps"][1], np.array([std, 0.9]) / np.sqrt(dim))
    np.testing.assert_allclose(drawn["std of epochs"][1], [std / np.sqrt(dim)])
    low, high = figure.axes[0].get_ylim()
    assert low == 0
    assert high > 1 / np.sqrt(dim), "the line is in view"


def test_x_counts_epochs_and_a_mean_lies_in_its_middle():
    drawn = lines(panel(curves.loss, History(WHOLE, SMALL)))
    np.testing.assert_allclose(drawn["loss of steps"], [[0.5, 1, 1.5, 2], [-0.5] * 4])
    np.testing.assert_allclose(drawn["loss of epochs"], [[0.5, 1.5], [-0.6, -0.6]])


def test_the_floor_is_drawn_for_the_cosine_alone():
    assert lines(panel(curves.loss, History(WHOLE, SMALL)))["floor of the cosine −1"][1] == [-1, -1]
    contrast = replace(SMALL, method=SIMCLR)
    assert "floor of the cosine −1" not in lines(panel(curves.loss, History(WHOLE, contrast)))


def test_losses_of_two_kinds_are_all_in_view():
    """As in the table of similarities: the floor at -1, and a cross-entropy near 6 that is drawn after it."""
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


def test_knn_starts_at_random_initialisation_with_both_references():
    drawn = lines(panel(curves.knn, History(WHOLE, SMALL)))
    np.testing.assert_allclose(drawn["knn"], [[0, 1, 2], [0.207, 0.41, 0.67]])
    assert drawn["raw pixels 31.2 %"][1] == [0.312, 0.312]
    assert drawn["random init 20.7 %"][1] == [0.207, 0.207]


def test_epochs_without_knn_are_passed_over():
    records = [epoch(0, knn=None), epoch(1, knn=0.5), epoch(2, knn=None), epoch(3, knn=0.6)]
    np.testing.assert_allclose(lines(panel(curves.knn, History(records, SMALL)))["knn"], [[2, 4], [0.5, 0.6]])


def test_a_gap_where_the_loss_is_not_finite():
    records = [step(2), step(4, loss=math.inf), step(6, loss=math.nan), step(8)]
    figure = panel(curves.loss, History(records, SMALL))
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


def test_svg_is_deterministic_and_takes_the_pages_colours():
    first, second = (inline_svg(panel(curves.knn, History(WHOLE, SMALL)), "knn") for _ in range(2))
    assert first == second
    assert "http" not in first
    assert "font-family" not in first
    for color in curves.PALETTE.values():
        assert color not in first
    assert "var(--line0)" in first
    assert "var(--ink)" in first
