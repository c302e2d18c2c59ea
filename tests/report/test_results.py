"""Evaluations and transfers: all finished ones are kept, and shown on the page of the run."""

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import pytest
import yaml
from PIL import Image

from siam.errors import RunError
from siam.report.formats import duration, number, percent, plus_minus
from siam.report.page import write_report
from siam.report.transfer import write_transfer_report
from siam.runs.results import (
    Evaluation,
    Precision,
    TransferResult,
    add_evaluation,
    load_evaluations,
    load_transfer,
    save_transfer,
)
from siam.settings.plain import to_dict
from siam.transfer.settings import TransferSettings
from tests.report.reading import NASTY, body, read

EVALUATION = Evaluation("knn", 0.673, None, (0.64, 0.7), {}, 5000, 1000, held_out=False, seconds=3.0)


def evaluate(folder, data):
    """Save an evaluation and write the page, as `siam evaluate` does."""
    add_evaluation(folder, EVALUATION, data)
    write_report(folder)


def test_concurrent_evaluations_are_all_kept(run):
    """The page written last shows them all."""
    folder, names = run([]), [f"set-{i}" for i in range(6)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        list(pool.map(evaluate, [folder] * 6, names))
    assert sorted(entry.data for entry in load_evaluations(folder)) == sorted(names)
    page = (folder / "report.html").read_text()
    assert [name for name in names if f"<td>{name}</td>" not in page] == []


def test_evaluations_are_shown_if_there_are_any(run):
    folder = run([])
    assert read(folder).find("div", "evaluation") == []
    add_evaluation(folder, EVALUATION, NASTY.replace("\udcff", ""))
    (table,) = read(folder).find("div", "evaluation")
    assert "67.3 %" in table.words()
    assert "64.0 to 70.0 %" in table.words()
    assert "<img src=x" in table.words(), "as text"


def test_the_confusions_of_the_newest_evaluation(run):
    folder = run([])
    add_evaluation(folder, EVALUATION, "photos")
    newest = replace(
        EVALUATION, protocol="probe", per_class={"<a>": 0.75, "b": 1.0}, confusion=[[3, 1], [0, 4]]
    )
    add_evaluation(folder, newest, "photos")
    (matrix,) = read(folder).find("div", "confusion")
    assert matrix.find("caption")[0].text.startswith("Confusion matrix (probe): true classes")
    assert [[cell.text for cell in row.find("td")] for row in matrix.find("tr")] == [
        [],
        ["3", "1"],
        ["0", "4"],
    ]
    assert [th.text for th in matrix.find("th")] == ["", "<a>", "b", "<a>", "b"]
    assert matrix.find("td")[1].attributes["style"] == "--fraction:0.25"

    classes = {str(i): 1.0 for i in range(21)}
    add_evaluation(folder, replace(newest, per_class=classes, confusion=[[0] * 21] * 21), "photos")
    assert read(folder).find("div", "confusion") == [], "too large to read"


def of_evaluation(**changes):
    return json.dumps([{**asdict(EVALUATION), "data": "photos", "date": "2026", **changes}])


@pytest.mark.parametrize(
    "contents",
    [
        "", "[{}]", "{", '[{"top1": 1, "unknown": 2}]', "3", "[" * 100_000, "\udcff",
        of_evaluation(top1="high"), of_evaluation(interval=[1]), of_evaluation(confusion=[1, 2]),
        of_evaluation(per_class={"a": []}), of_evaluation(train_images=2**70), of_evaluation(date=None),
    ],
)  # fmt: skip
def test_damaged_evaluations(run, contents):
    folder = run([])
    (folder / "evaluations.json").write_text(contents, errors="surrogateescape")
    message = r"evaluations\.json cannot be read .*: move or delete it to continue without it"
    with pytest.raises(RunError, match=message):
        add_evaluation(folder, EVALUATION, "photos")
    assert (folder / "evaluations.json").read_text(errors="surrogateescape") == contents
    warnings = []
    page = write_report(folder, warnings.append).read_text()
    assert re.fullmatch("left out of the report: .*" + message, *warnings)
    assert "evaluations.json cannot be read" in page
    assert "batch_size" in page, "only the evaluations are lost"


BOXES = Precision(0.5, 0.75, 0.4321, None, 0.25, 0.625, {"cat": 0.25, "d<o>g": 0.75})


def make_transfer(folder, **changes):
    """Write the files of a transfer that its page is made of. Return the folder."""
    folder.mkdir(parents=True)
    settings = {"run": "runs/a", "data": "voc", **to_dict(TransferSettings(task="detection"))}
    (folder / "transfer.yaml").write_text(yaml.safe_dump(settings))
    records = [
        {"kind": "start"},
        *({"kind": "step", "step": n, "loss": 2.0 / n, "loss_box_reg": 0.5, "lr": 0.1} for n in (1, 2, 3)),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "drawn").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "drawn" / "000007.jpg")
    result = TransferResult(
        str(folder), "voc", "voc", 1, 5011, 4952, BOXES, None, 9000, 90.0, {"an <object> without a box": 2}
    )
    save_transfer(folder, replace(result, **changes))
    return folder


def test_the_page_of_a_transfer(tmp_path):
    root = read(make_transfer(tmp_path / "voc-<1>"), write_transfer_report)
    assert root.find("h1")[0].text == "voc-<1>"
    assert root.find("span", "pill")[0].text == "detection"
    cards = [card.words() for card in root.find("div", "card")]
    assert cards == ["50.0 % AP of boxes", "75.0 % AP50 of boxes", "43.2 % AP75 of boxes"]
    rows = [[cell.text for cell in row.find("td")] for row in root.find("tbody")[0].find("tr")]
    assert rows[0] == ["measured, boxes", "50.0", "75.0", "43.2", "-", "25.0", "62.5"]
    assert ["SimSiam, base, boxes", "47.0", "75.5", "50.2", "", "", ""] in rows
    assert len(rows) == 1 + 8
    shown = body(root)
    assert "d<o>g 75.0, cat 25.0" in shown, "the best first"
    assert "2 × an <object> without a box" in shown
    assert "5,011 training images, 4,952 test images" in shown
    assert [image.attributes["alt"] for image in root.find("img")] == ["test image 7 with predictions"]
    assert [figure.find("svg")[0].attributes["aria-label"] for figure in root.find("figure")] == [
        "losses",
        "lr",
    ]
    assert {"losses", "loss", "box reg", "learning rate"} <= {text.text for text in root.find("text")}
    settings = {row.find("th")[0].text: row.find("td") for row in root.find("details")[0].find("tr")}
    assert settings["candidates"][0].text == "12000, 6000"


def test_masks_have_their_own_rows(tmp_path):
    folder = make_transfer(tmp_path / "coco", layout="coco", masks=replace(BOXES, ap=0.125))
    root = read(folder, write_transfer_report)
    rows = [[cell.text for cell in row.find("td")] for row in root.find("tbody")[0].find("tr")]
    assert [row[:2] for row in rows[:2]] == [["measured, boxes", "50.0"], ["measured, masks", "12.5"]]
    assert ["BYOL, masks", "33.2", "54.3", "35.0", "", "", ""] in rows
    assert len(rows) == 2 * (1 + 8)


def test_transfers_are_shown_with_the_run(run):
    """The finished ones, with the photographs of the newest."""
    folder = run([])
    (folder / "transfer" / "begun").mkdir(parents=True)
    assert "<h2>Transfer" not in write_report(folder).read_text()
    make_transfer(folder / "transfer" / "ended")
    root = read(folder)
    (table,) = root.find("div", "evaluation")
    assert [cell.text for cell in table.find("td")] == [
        "ended", "boxes", "50.0 %", "75.0 %", "43.2 %", "-", "25.0 %", "62.5 %", "5,011 / 4,952",
    ]  # fmt: skip
    assert "Predictions of ended" in body(root)
    assert len(root.find("img")) == 1


def test_a_transfer_round_trips(tmp_path):
    assert load_transfer(tmp_path) is None
    folder = make_transfer(tmp_path / "voc", masks=BOXES)
    loaded = load_transfer(folder)
    assert loaded.masks == loaded.boxes == BOXES
    assert loaded.skipped == {"an <object> without a box": 2}
    assert loaded.flat()["masks_ap75"] == 0.4321
    (folder / "result.json").write_text('{"boxes": 1')
    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        load_transfer(folder)


@pytest.mark.parametrize(
    "contents", ['{"boxes": 1}', "[]", "[" * 100_000, '{"boxes": {"ap": "high"}, "masks": null}', "\0"]
)
def test_a_damaged_transfer_costs_only_itself(run, contents):
    folder = run([])
    make_transfer(folder / "transfer" / "whole")
    make_transfer(folder / "transfer" / "torn")
    (folder / "transfer" / "torn" / "result.json").write_text(contents)
    with pytest.raises(RunError, match=r"torn.result\.json cannot be read"):
        load_transfer(folder / "transfer" / "torn")
    warnings = []
    page = write_report(folder, warnings.append).read_text()
    assert "whole" in page
    assert "torn" in warnings[0]


@pytest.mark.parametrize(
    "contents", ["", "run: 1", "[]", "run: a\ndata: b\nlr: 0.1", "[" * 3000, "d: 2001-13-45"]
)
def test_a_damaged_transfer_yaml_is_named(tmp_path, contents):
    folder = make_transfer(tmp_path / "voc")
    (folder / "transfer.yaml").write_text(contents)
    with pytest.raises(
        RunError, match=r"transfer\.yaml (cannot be read|does not contain settings)"
    ) as raised:
        write_transfer_report(folder)
    assert "\n" not in str(raised.value)


def test_an_unfinished_transfer_has_no_page(tmp_path):
    with pytest.raises(RunError, match="has not finished"):
        write_transfer_report(tmp_path)


def test_numbers_as_text():
    assert [percent(value) for value in (0.4213, 1.0, None)] == ["42.1 %", "100.0 %", "-"]
    assert [number(-0.91, ".3f"), number(0.673, ".1%"), number(12345.6, ",.0f")] == [
        "−0.910",
        "67.3 %",
        "12,346",
    ]
    assert number(float("nan"), ".3f") == "not finite"
    pairs = ((0.6, 0.141), (0.6, 0.0), (0.6, None), None)
    assert [plus_minus(pair, factor=100) for pair in pairs] == ["60.0 ± 14.1", "60.0 ± 0.0", "60.0", "-"]
    assert [duration(s) for s in (59.6, 754, 9000, 400000)] == ["60 s", "12.6 min", "2.5 h", "4.6 days"]
