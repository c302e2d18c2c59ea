"""siam compare: the numbers are those of the run's own log and of siam evaluate."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from timm.models import save_for_hf

import siam
from siam.cli import command as cli
from siam.errors import DataError, RunError, SettingsError
from siam.metrics import all_metrics, label
from siam.protocols import compare as module
from siam.report.comparison import cells, conclusion, write_comparison
from siam.runs.encoder import load
from siam.runs.folder import read_records
from siam.runs.results import Compared
from siam.train import speed
from tests.conftest import TINY, save_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """train/ and val/, with two classes that differ a little in brightness."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 15), ("val", 10)):
        for name, level in (("dark", 110), ("light", 145)):
            (root / split / name).mkdir(parents=True)
            save_images(root / split / name, count, seed=level + count, level=level)
    return root


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "a"
    flags = [*TINY, "--epochs", "1", "--device", "cpu", "--out", str(out)]
    assert cli.main(["pretrain", str(images), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "byobnet"
    save_for_hf(timm.create_model("test_byobnet", num_classes=3), folder, safe_serialization=True)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measure speeds for no longer than needed, and in the precision of the run."""
    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    monkeypatch.setattr(module, "uses_bf16", lambda precision, device: False)


def test_the_numbers_are_those_of_the_run_and_of_evaluate(images, run, weights):
    rows = siam.compare(images, run, weights, "untrained", "pixels", k=5, device="cpu", workers=0)
    own, existing, untrained, pixels = rows
    assert [row.kind for row in rows] == ["run", "pretrained", "untrained", "pixels"]
    assert [row.encoder for row in rows] == [str(run), str(weights), "untrained", "pixels"]
    logged = {name: value for record in read_records(run) for name, value in record.items()}
    for name in ("knn", "rank", "rank_z"):
        assert own.metrics[name] == pytest.approx(logged[name], rel=1e-4), name
    assert untrained.metrics["knn"] == pytest.approx(logged["untrained_knn"])
    assert pixels.metrics["knn"] == pytest.approx(logged["pixel_knn"])
    assert own.probe == siam.evaluate(run, images, "probe", device="cpu", workers=0).top1
    assert existing.probe == siam.evaluate(weights, images, "probe", device="cpu", workers=0).top1
    assert all(row.metrics.keys() == all_metrics().keys() for row in rows)
    assert {row.queries for row in rows} == {20}
    encoder = load(run)
    assert own.parameters == untrained.parameters == sum(p.numel() for p in encoder.parameters())
    assert (own.network, own.image_size, own.features) == ("resnet10t x 0.125", 16, encoder.features)
    assert (existing.network, existing.image_size, existing.features) == ("test_byobnet", 160, 256)
    assert (pixels.image_size, pixels.features, pixels.parameters) == (16, 3 * 16 * 16, 0)
    assert pixels.images_per_second is None
    assert min(row.images_per_second for row in rows[:3]) > 0


def test_the_verb_prints_a_table_and_writes_a_page(images, run, tmp_path, capsys):
    out = tmp_path / "page"
    args = [
        "compare",
        str(images),
        "pixels",
        str(run),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    assert cli.main([*args, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["encoder"] for row in result["encoders"]] == ["pixels", str(run)]
    assert result["conclusion"].startswith("best by kNN accuracy: ")
    page = (out / "report.html").read_text()
    assert result["page"] == str(out / "report.html")
    assert page.count("resnet10t x 0.125") == 1
    assert f'<p class="meaning">{result["conclusion"]}</p>' in page
    assert "effective rank of the features" in page
    assert cli.main(args) == 0  # replaces the earlier page
    captured = capsys.readouterr()
    assert captured.out.split()[:4] == ["encoder", "px", "parameters", "images/s"]
    assert f"see {out / 'report.html'}" in captured.err


def test_without_labels_and_without_a_run(photos):
    rows = siam.compare(photos, "untrained", "pixels", device="cpu", workers=0)
    assert rows[0].network == "resnet18"
    assert 16 <= rows[0].image_size == rows[1].image_size <= 60
    assert all(row.metrics["rank"] > 1 for row in rows)
    assert {(row.metrics["knn"], row.probe, row.queries) for row in rows} == {(None, None, 0)}
    assert conclusion(rows).startswith("without labels, nothing here says which encoder")
    assert cells(rows)[0][6:] == [
        label(name, metric)
        for name, metric in all_metrics().items()
        if label(name, metric) and not getattr(metric, "QUERIES", False)
    ]


def test_what_cannot_be_compared_is_said_before_anything_is_measured(images, run, tmp_path):
    with pytest.raises(SettingsError, match="nothing to compare: name run folders, timm:NAME, untrained or"):
        siam.compare(images)
    with pytest.raises(SettingsError, match="images must be at least 2, got 1"):
        siam.compare(images, "pixels", images=1)
    with pytest.raises(RunError, match="no run at"):
        siam.compare(images, run, tmp_path / "other")
    with pytest.raises(SettingsError, match="timm has no model 'resnett18'; did you mean resnet18"):
        siam.compare(images, run, "timm:resnett18")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        siam.compare(tmp_path / "empty", "pixels")


ROW = Compared("timm:a", "pretrained", "a", 224, 64, 1_000_000, 9.0, {"knn": 0.8, "rank": 9.0}, 0.9, 1000)
RUN = replace(ROW, encoder="runs/b", kind="run", metrics={"knn": 0.6, "rank": 3.0})
PIXELS = replace(ROW, encoder="pixels", kind="pixels", metrics={"knn": 0.5, "rank": 20.0})
UNTRAINED = replace(PIXELS, encoder="untrained", kind="untrained")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [RUN, ROW, PIXELS],
            "timm:a, 80.0 % of 1,000 images, 20.0 points above runs/b: use timm:a as it is (siam embed), or "
            "train on from it (siam pretrain --init timm:a)",
        ),
        ([RUN, PIXELS], "runs/b, 60.0 % of 1,000 images, 10.0 points above raw pixels"),
        ([PIXELS], "raw pixels, 50.0 % of 1,000 images: this is what an encoder has to exceed"),
        (
            [replace(RUN, metrics={"knn": 0.49}), PIXELS],
            "raw pixels, 50.0 % of 1,000 images; within chance (4.4 points): runs/b: no encoder is clearly "
            "better than raw pixels; train longer, or start from weights that exist (--init timm:NAME)",
        ),
        (
            [replace(RUN, metrics={"knn": 1.0}), replace(UNTRAINED, metrics={"knn": 1.0}), PIXELS],
            "runs/b, 100.0 % of 1,000 images; within chance (0.3 points): the untrained network: no encoder "
            "is clearly better than the untrained network; train longer, or start from weights that exist "
            "(--init timm:NAME)",
        ),
    ],
)  # fmt: skip
def test_the_conclusion(rows, words):
    """Chance: 1.96 x sqrt(2 p (1 - p) / n), the 95 % interval of the difference of two proportions."""
    assert conclusion(rows) == f"best by kNN accuracy: {words}"


def test_the_table_leaves_out_what_no_encoder_has():
    head, body = cells([replace(ROW, probe=None), replace(PIXELS, probe=None, parameters=0, network="")])
    assert head == ["encoder", "network", "px", "D", "parameters", "images/s", "rank", "kNN"]
    assert body == [
        ["timm:a", "a", "224", "64", "1.0 M", "9", "9.0", "80.0 %"],
        ["pixels", "-", "224", "64", "-", "9", "20.0", "50.0 %"],
    ]


def test_a_page_replaces_nothing_but_a_page(tmp_path):
    names = [replace(ROW, encoder="<script>"), PIXELS]
    page = write_comparison(tmp_path / "new", "photos", names).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert write_comparison(tmp_path / "new", "photos", names).read_text() == page
    (tmp_path / "new" / "settings.yaml").write_text("")
    with pytest.raises(RunError, match=r"already contains settings\.yaml, which is no comparison"):
        write_comparison(tmp_path / "new", "photos", names)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.html").write_text("mine")
    with pytest.raises(RunError, match=r"already contains report\.html"):
        write_comparison(tmp_path / "other", "photos", names)
    assert (tmp_path / "other" / "report.html").read_text() == "mine"
