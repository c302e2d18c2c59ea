"""Transfer as a user runs it on real photographs: end to end, overfitted, killed and resumed."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from siam.cli import command as cli
from siam.errors import RunError, SettingsError
from siam.paper.transfer import reproduce_transfer
from siam.settings.overrides import Overrides
from siam.settings.plain import to_dict
from siam.transfer.data import open_annotated
from siam.transfer.precise_bn import measure_statistics
from siam.transfer.settings import SMALL
from siam.transfer.start import init_backbone
from tests.command import Command
from tests.conftest import run_cli
from tests.transfer.conftest import LITTLE, few_of_coco, few_of_voc, make_run, names_of_voc
from tests.transfer.test_measure import FIELDS, by_pycocotools

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'


def records(folder, kind=None):
    """Return the records of metrics.jsonl without timings."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in r.items() if k not in times} for r in lines if kind in (None, r["kind"])]


def run_transfer(capsys, *arguments, status=0):
    """Run the command in this process. Return its JSON and stderr."""
    assert cli.main(["transfer", *map(str, arguments)]) == status, capsys.readouterr().err
    out, err = capsys.readouterr()
    return json.loads(out) if out.startswith("{") else None, err


@pytest.fixture(autouse=True, scope="module")
def charts():
    """Draw them."""


@pytest.fixture(scope="module")
def few_voc(voc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few") / "voc"
    return few_of_voc(voc, folder, names_of_voc(voc, "trainval")[:6], names_of_voc(voc, "test")[:6])


@pytest.fixture(scope="module")
def few_coco(coco, tmp_path_factory):
    return few_of_coco(coco, tmp_path_factory.mktemp("few") / "coco", 6, 6)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["c4", "fpn"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_end_to_end(request, capsys, encoder, tmp_path, task, detector):
    """Every file is written, and pycocotools computes the same precision from them."""
    data = request.getfixturevalue("few_coco" if task == "segmentation" else "few_voc")
    out = tmp_path / "out"
    asked = [encoder, data, "--task", task, "--detector", detector, *LITTLE, "--out", out]
    outcome, _ = run_transfer(capsys, *asked, "--json")
    assert outcome["test_images"] == 6
    assert (outcome["masks"] is None) == (task == "detection")
    true = data / "annotations" / "instances_val2017.json" if task == "segmentation" else out / "truth.json"
    for kind, iou in (("boxes", "bbox"), ("masks", "segm"))[: 2 if task == "segmentation" else 1]:
        file = out / f"predictions-{kind}.json"
        assert json.loads(file.read_text())
        expected = by_pycocotools(true, file, iou)
        assert [outcome[kind][name] for name in FIELDS] == pytest.approx(expected, abs=1e-6)
    assert [record["step"] for record in records(out, "step")] == [1, 2, 3, 4]
    assert {"loss", "loss_objectness", "loss_box_reg", "lr"} <= set(records(out, "step")[0])
    assert any("tfevents" in file.name for file in (out / "tensorboard").iterdir())
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg') == 6
    assert "SimSiam, base" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)

    _, complaint = run_transfer(capsys, *asked, status=2)
    assert "already contains a transfer run: resume it with --resume" in complaint


OVERFIT = """
--batch-size 4 --iterations 400 --lr 0.16 --warmup 20 --drops 0.8 0.93 --precision float32
--train-sides 64 --test-side 64 --max-side 96 --anchors 16 24 32 48 64
--rois 16 --candidates 200 100 --proposals 100 50 --precise-bn 8 --workers 0
""".split()  # noqa: SIM905


@pytest.mark.slow
def test_eight_photographs_are_overfitted(capsys, voc, tmp_path):
    """AP50 above 0.9 on the training photographs, for objects of a quarter of the image or more."""
    everything = open_annotated(voc, masks=False).train
    large = []
    for i in range(len(everything)):
        photo = everything[i]
        if len(photo.instances) <= 2 and all(
            t.area > 0.25 * photo.width * photo.height for t in photo.instances
        ):
            large.append(photo.file.stem)
    eight = few_of_voc(voc, tmp_path / "eight", large[:8], large[:8])
    encoder = make_run(tmp_path / "run", "resnet18", 0.125, 128)
    outcome, _ = run_transfer(capsys, encoder, eight, *OVERFIT, "--out", tmp_path / "out", "--json")
    assert outcome["boxes"]["ap50"] > 0.9


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_transfer(capsys, few_coco, encoder, tmp_path):
    """Bit for bit: the lines, the weights, the predictions."""
    arguments = [encoder, few_coco, "--task", "segmentation", *LITTLE, "--iterations", 7]
    arguments += ["--checkpoint.every", 2]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_transfer(capsys, *arguments, "--out", whole)
    log = broken / "metrics.jsonl"
    Command("transfer", *arguments, "--out", broken).kill_when(
        lambda: log.exists() and '"step": 5,' in log.read_text()
    )
    assert not (broken / "result.json").exists()
    run_transfer(capsys, *arguments, "--out", broken, "--resume", "--workers", 1)
    assert records(broken) == records(whole)
    for file in ("predictions-boxes.json", "predictions-masks.json", "truth.json"):
        assert (broken / file).read_bytes() == (whole / file).read_bytes()
    one, other = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, broken))
    assert all(torch.equal(one["detector"][key], other["detector"][key]) for key in one["detector"])
    for key, state in one["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], other["optimizer"]["state"][key]["momentum_buffer"])

    before = (broken / "metrics.jsonl").read_bytes()
    outcome, _ = run_transfer(capsys, *arguments, "--out", broken, "--resume", "--json")
    assert outcome["iterations"] == 7
    assert (broken / "metrics.jsonl").read_bytes() == before
    _, complaint = run_transfer(capsys, *arguments, "--out", broken, "--resume", "--lr", 0.5, status=2)
    assert "was started with different settings: lr (0.02 and 0.5)" in complaint


def test_the_backbones_initialization(encoder, tmp_path):
    """--init: random weights differ by seed, a checkpoint's weights are loaded, and a misfit is an error."""
    saved = load_file(encoder / "encoder.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in init_backbone(encoder, "", 0).state_dict().items())
    first, again, other = (init_backbone(encoder, "random", seed).conv1.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, saved["conv1.weight"])

    file = tmp_path / "checkpoint.pth"
    changed = {f"backbone.{key}": value + 1 for key, value in saved.items()}
    torch.save({"state_dict": changed}, file)
    state = init_backbone(encoder, str(file), 0).state_dict()
    assert all(torch.equal(changed[f"backbone.{key}"], value) for key, value in state.items())
    run = make_run(tmp_path / "other", "resnet10t", 0.25, 64)
    assert (
        init_backbone(encoder, str(run), 0).state_dict().keys()
        == load_file(run / "encoder.safetensors").keys()
    )

    torch.save({"state_dict": {key: value for key, value in changed.items() if ".conv1." in key}}, file)
    with pytest.raises(RunError, match=r"has missing keys: .*; it does not match the resnet18 backbone of"):
        init_backbone(encoder, str(file), 0)
    with pytest.raises(RunError, match="--init must be `random`, a run folder or a checkpoint file, got"):
        init_backbone(encoder, "rundom", 0)


def test_a_refused_initialization_leaves_no_folder(capsys, few_voc, encoder, tmp_path):
    arguments = [encoder, few_voc, *LITTLE, "--init", "rundom", "--out", tmp_path / "out"]
    assert "--init must be `random`" in run_transfer(capsys, *arguments, status=2)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_train_one_detector(few_voc, tmp_path):
    """Each takes half of the batch and half of the test; the run's own report shows the result."""
    run = make_run(tmp_path / "run", "resnet18", 0.25, 128)
    asked = [run, few_voc, *LITTLE, "--batch-size", 4, "--device", "cpu", "--devices", 2, "--json"]
    outcome = json.loads(run_cli("transfer", *asked, check=0).stdout)
    out = run / "transfer" / "voc-detection-c4"
    assert outcome["out"] == str(out)
    assert outcome["test_images"] == 6
    assert {p["image_id"] for p in json.loads((out / "predictions-boxes.json").read_text())} == {
        image["id"] for image in json.loads((out / "truth.json").read_text())["images"]
    }
    assert [record["step"] for record in records(out, "step")] == [1, 2, 3, 4]
    page = (run / "report.html").read_text()
    assert "<h2>Transfer</h2>" in page
    assert page.count('<img src="data:image/jpeg') == 6


@pytest.mark.slow
def test_table_5_is_made_row_by_row_and_resumes(few_voc, encoder, tmp_path):
    """From scratch and from a run, two seeds; finished trainings are not repeated."""
    settings = replace(
        SMALL, iterations=2, batch_size=2, train_sides=(64,), test_side=64, max_side=96, rois=8,
        candidates=(50, 50), proposals=(20, 20), precise_bn=0, workers=0, precision="float32",
    )  # fmt: skip
    overrides = Overrides(to_dict(settings))
    asked = (str(few_voc), [str(encoder)], overrides, "small", 2, tmp_path / "t")
    folder = reproduce_transfer(*asked)
    found = json.loads((folder / "table.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["none (scratch)", "quarter"]
    assert [row["published"] for row in found["rows"]] == ["scratch", "SimSiam, base"]
    assert [len(row["seeds"]) for row in found["rows"]] == [2, 2]
    page = (folder / "table.md").read_text()
    assert "35.9 / 16.8 / 13.0" in page
    assert "75.5 / 47.0 / 50.2" in page
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}
    assert len(before) == 4
    reproduce_transfer(*asked)
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*/result.json")} == before
    with pytest.raises(SettingsError, match="--runs RUN"):
        reproduce_transfer(str(few_voc), [], Overrides())


def test_precise_statistics_are_the_mean_over_batches():
    """Of each batch's mean and unbiased variance (Wu & Johnson 2021); no parameter changes, nor the mode."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)).eval()
    before = [p.clone() for p in network.parameters()]
    batches = [torch.randn(8, 3) * scale for scale in (1, 2, 3)]
    measure_statistics(network, batches, network)
    expected = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    torch.testing.assert_close(network[0].running_mean, expected)
    expected = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(network[0].running_var, expected)
    assert network[0].momentum == 0.1
    assert not network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_help_names_the_recipes_and_imports_no_torch():
    """A missing extra is an error of one line."""
    code = (
        "import sys, siam.cli; sys.modules['faster_coco_eval'] = None; "
        "status = siam.cli.main(['transfer', 'run', 'data']); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "siam: faster_coco_eval is not installed: pip install 'siam[transfer]'\n"
    shown = run_cli("transfer", "--help", check=0).stdout
    assert "Recipes: voc07, voc0712, coco-1x, small" in shown
