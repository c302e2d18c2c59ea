"""A file of a run that is damaged, of another version or of other types costs only what was damaged."""

import io
import json
import threading
import zipfile

import numpy as np
import pytest
import torch
from rich.console import Console

from siam.convert.inspecting import inspect
from siam.errors import RunError
from siam.report.page import write_report
from siam.report.pictures import PICTURES, Pictures
from siam.runs.checkpoint import Progress, restore, save_checkpoint
from siam.runs.encoder import load_network
from siam.runs.folder import open_run, read_records, save_settings
from siam.runs.history import Records
from siam.runs.logger import Logger
from siam.settings.pretraining import Settings, ViewSettings
from tests.report.reading import make_run

GOOD = [
    {"kind": "start", "images": 64, "device": "cpu"},
    {"kind": "step", "epoch": 0, "step": 1, "loss": -0.5, "std": 0.9, "lr": 0.1},
    {"kind": "epoch", "epoch": 0, "step": 2, "loss": -0.6, "std": 0.9, "verdict": "healthy"},
]


@pytest.mark.parametrize(
    "line",
    [
        "{", "null", "[]", "3", '"kind"', "{}", "\0\0\0\0", "[" * 100_000, '{"kind": 3}',
        '{"kind": ["step"]}',
        '{"kind": "step"}', '{"kind": "step", "step": "one"}', '{"kind": "step", "step": -1}',
        '{"kind": "step", "step": 1e400}', '{"kind": "epoch", "epoch": 1}', '{"kind": "step", "step": true}',
        f'{{"kind": "epoch", "epoch": {2**70}, "step": 1}}', '{"kind": "st', "\udcff\udcfe",
    ],
)  # fmt: skip
def test_a_damaged_line_costs_one_record(tmp_path, line):
    folder = make_run(tmp_path / "run", GOOD)
    lines = [json.dumps(record) for record in GOOD]
    text = "\n".join([lines[0], line, *lines[1:], ""])
    (folder / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_records(folder) == GOOD
    assert "std of z/|z|" in write_report(folder).read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "low"), ("loss", [1]), ("loss", {}), ("std", True), ("verdict", 3), ("images", "many"),
        ("images", 1.5), ("device", None), ("pairs_per_second", "fast"), ("loss", 10**400), ("knn", "half"),
        ("parameters", -1), ("seconds", "long"), ("val_images", None), ("std", None),
    ],
)  # fmt: skip
def test_a_value_of_another_type_costs_one_value(tmp_path, name, value):
    folder = make_run(tmp_path / "run", GOOD)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({**r, name: value}) + "\n" for r in GOOD))
    assert len(read_records(folder)) == 3
    steps, rates = Records(read_records(folder)).series("step", "lr")
    assert (steps.tolist(), rates.tolist()) == ([0.5], [0.1])
    assert write_report(folder).exists()


def log_of(folder, contents, position):
    (folder / "metrics.jsonl").write_bytes(contents)
    console = Console(file=io.StringIO(), width=500)
    with Logger(folder, 9, 1, position, console) as log:
        log.log("end", seconds=1.0)
    return (folder / "metrics.jsonl").read_bytes(), console.file.getvalue()


START, END = b'{"kind": "start"}\n', b'{"kind": "end", "seconds": 1.0}\n'


@pytest.mark.parametrize(
    ("contents", "position", "left", "warns"),
    [
        (START + b'{"kind": "step"}\n', len(START), START, False),
        (b"", 4000, b"", True),
        (START, 4000, START, True),
        (START + b'{"kind": "st', 4000, START, True),
        (b"\0" * 100, 50, b"", False),
        (START + b'{"kind": "step"}\n', len(START) + 5, START, False),
    ],
    ids=["whole", "lost", "shorter", "torn", "zeros", "edited"],
)
def test_a_log_that_lost_records_goes_on_with_those_left(tmp_path, contents, position, left, warns):
    found, said = log_of(tmp_path, contents, position)
    assert found == left + END
    assert ("has lost records" in said) == warns


def test_a_log_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write to .*metrics\.jsonl: "):
        Logger(tmp_path, 9, 1, 0, Console(quiet=True))


def test_a_file_in_the_place_of_the_tensorboard_folder_costs_only_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("mine")
    found, said = log_of(tmp_path, b"", 0)
    assert found == END
    assert "cannot write TensorBoard events" in said
    assert (tmp_path / "tensorboard").read_text() == "mine"


def test_a_limit_of_threads_costs_only_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    found, said = log_of(tmp_path, b"", 0)
    assert found == END
    assert "cannot write TensorBoard events (can't start new thread)" in said


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", "1: 2", "null: 1", "data: 2001-13-45", "data: 2001-01-01", "[" * 3000, "a: [",
        "\udcff",
        "batch_size: 3.5", "views: 3", "views: {size: huge}", "views: {size: 1000000000}", "width: .inf",
        "method: {dim: 1000000000000}", "method: {projector_layers: 10000}", "seed: 1180591620717411303424",
        "epochs: .nan", "method: {queue: 99999999999}", "data: !!python/object/apply:os.system ['false']",
        BOMB, BOMB.replace("l:", "data:"), "backbone: resnet18\n" * 10_000, "x" * 300 + ": 1",
        "? [a]\n: 1", "optimizer: {lr: [1, 2]}", "seed: -1",
    ],
    ids=range(28),
)  # fmt: skip
def test_damaged_settings_are_named_in_one_sentence(tmp_path, text):
    (tmp_path / "settings.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"settings\.yaml ") as raised:
        open_run(tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def tiny_run(folder):
    folder.mkdir()
    save_settings(folder, Settings(backbone="resnet10t", width=0.125, views=ViewSettings(size=32)))
    return folder


@pytest.mark.parametrize(
    "contents",
    [{}, [], 3, torch.zeros(3), {"network": 3}, {"network": {"a": 1}}, {1: 2}, {"network": {}}],
    ids=["empty", "list", "number", "tensor", "no weights", "no tensors", "unnamed", "nothing"],
)
def test_a_checkpoint_with_other_contents_is_named(tmp_path, contents):
    folder = tiny_run(tmp_path / "run")
    torch.save(contents, folder / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt .*(no network|no named parts)"):
        load_network(folder)
    with pytest.raises(RunError) as raised:
        inspect(folder)
    assert "\n" not in str(raised.value)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    folder = tiny_run(tmp_path / "run")
    with zipfile.ZipFile(folder / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(RunError, match=r"checkpoint\.pt is not a checkpoint of Siam's: it is compressed"):
        load_network(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", "ten"), ("step", None), ("log_bytes", 1.5), ("metrics", {"knn": "high"}), ("verdict", 3),
        ("unreadable", ["a"]), ("sums", {1: 2.0}), ("seconds", [1]), ("unknown", 1),
    ],
)  # fmt: skip
def test_progress_of_other_types_does_not_match(tmp_path, name, value):
    module = torch.nn.Linear(2, 2)
    save_checkpoint(tmp_path, Progress(step=3), network=module)
    contents = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert restore(contents, tmp_path, network=module).step == 3
    contents["progress"][name] = value
    with pytest.raises(RunError, match="does not match this run"):
        restore(contents, tmp_path, network=module)


@pytest.mark.parametrize("damage", [[], {}, 3, {"state": []}, {"state": {0: 1}, "param_groups": [3]}])
def test_an_optimizer_of_other_types_does_not_match(tmp_path, damage):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    contents = {"progress": {}, "optimizer": damage}
    with pytest.raises(RunError, match="does not match this run"):
        restore(contents, tmp_path, optimizer=optimizer)


def pictures(**changes):
    images = {
        "pairs": np.zeros((2, 2, 4, 4, 3), np.uint8),
        "queries": np.zeros((1, 4, 4, 3), np.uint8),
        "neighbors": np.zeros((1, 3, 4, 4, 3), np.uint8),
        "query_names": np.array(["a"]),
        "neighbor_names": np.array([["b", "c", "d"]]),
    }
    return {**images, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"pairs": np.zeros((2, 2, 4, 4, 3))}, {"pairs": np.zeros(3, np.uint8)},
        {"queries": np.zeros((2, 4, 4, 3), np.uint8)}, {"queries": np.zeros((1, 4, 4, 1), np.uint8)},
        {"neighbors": np.zeros((1, 3, 0, 0, 3), np.uint8)}, {"neighbor_names": np.array(["b"])},
        {"query_names": np.array([1])}, {"query_names": np.array("a")},
    ],
)  # fmt: skip
def test_pictures_of_other_shapes_cost_only_the_pictures(tmp_path, changes):
    folder = make_run(tmp_path / "run", GOOD)
    np.savez(folder / PICTURES, **pictures(**changes))
    with pytest.raises(RunError, match=r"pictures\.npz cannot be read"):
        Pictures.load(folder)
    warnings = []
    assert "std of z/|z|" in write_report(folder, warnings.append).read_text()
    assert len(warnings) == 1
    np.savez(folder / PICTURES, **pictures())
    assert Pictures.load(folder).neighbor_names == [["b", "c", "d"]]
