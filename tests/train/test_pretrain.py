"""Whole runs as a user starts them: healthy, collapsed, with broken files, on real photographs."""

import json
import math
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import siam
from siam.convert import vectors as vectors_module
from siam.runs.tensors import load_checkpoint
from siam.settings.plain import from_dict
from tests.conftest import DATA, TINY, run_cli, save_images


def records(run, kind):
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_a_run_survives_five_percent_of_broken_files(tmp_path):
    """An empty file, a truncated one, text, and a bomb among 80 files are replaced, counted and listed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    save_images(folder, 76, seed=0)
    whole = (folder / "000.jpg").read_bytes()
    (folder / "b1.jpg").write_bytes(b"")
    (folder / "b2.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b3.jpg").write_text("I am not a photograph")
    bomb = bytearray(whole)
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = (60_000).to_bytes(2) * 2
    (folder / "b4.jpg").write_bytes(bomb)

    run = tmp_path / "run"
    done = run_cli(
        "pretrain", folder, *TINY, "--loader.cache", "none", "--loader.workers", 1, "--out", run, check=0
    )
    assert "4 of 80 images could not be read" in " ".join(done.stderr.split())
    assert "4 unreadable, listed in unreadable.txt" in (run / "report.html").read_text()
    listed = dict(line.split("\t") for line in (run / "unreadable.txt").read_text().splitlines())
    assert set(listed) == {"b1.jpg", "b2.jpg", "b3.jpg", "b4.jpg"}
    assert "empty" in listed["b1.jpg"]
    assert "60000 x 60000" in listed["b4.jpg"]


def test_too_many_broken_files_stop_the_run(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    save_images(folder, 20, seed=0)
    for i in range(6):
        (folder / f"b{i}.jpg").write_text("no")
    done = run_cli("pretrain", folder, *TINY, "--out", tmp_path / "run", check=2)
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("siam: ")
    assert "of 26 images" in line
    assert "more than 10 %: b" in line
    assert "(is not an image), b" in line
    assert line.endswith("; delete or replace them")


@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(photos, tmp_path, every):
    """After an epoch the learning rate makes any network diverge; the earlier checkpoint is kept."""
    run = tmp_path / "run"
    flags = [*TINY, "--method.batch-norm", "none", "--checkpoint.every", every]
    rate = ["--optimizer.lr", "1e30", "--optimizer.warmup-epochs", "0.7"]  # 0 in the first step
    done = run_cli("pretrain", photos, *flags, *rate, "--out", run, check=2)
    assert "the weights are no longer finite" in done.stderr.splitlines()[-1]
    assert "diverged" in (run / "report.html").read_text()
    assert math.isnan(records(run, "step")[-1]["loss"])
    if every == 1:
        saved = load_checkpoint(run / "checkpoint.pt")
        assert saved["progress"]["step"] == 1
        assert all(bool(w.isfinite().all()) for w in saved["network"].values())


SHORT = {
    "backbone": "resnet10t", "width": 0.125, "epochs": 1, "batch_size": 8, "views": {"size": 16},
    "method": {"dim": 16, "projector_hidden": 16, "predictor_hidden": 4}, "precision": "float32",
}  # fmt: skip


def test_python_runs_embeds_and_loads(classes, tmp_path, monkeypatch):
    """kNN is that of the vectors: all 24 training images vote, each with weight exp(cos / T)."""
    monkeypatch.setattr(vectors_module, "uses_bf16", lambda *_: False)
    outcome = siam.pretrain(classes, out=tmp_path / "run", **SHORT)
    assert outcome.metrics["pixel_knn"] >= 0.9  # dark and light images: pixels tell them apart
    encoder = siam.load(outcome.run)
    assert not encoder.training
    vectors, paths = siam.embed(outcome.run, classes)
    assert vectors.shape == (36, encoder.features)
    assert paths[0] == "train/dark/000.jpg"
    assert paths[-1] == "val/light/005.jpg"
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    light = np.array(["light" in path for path in paths])
    votes = np.exp(unit[24:] @ unit[:24].T / 0.1)
    named_light = votes[:, light[:24]].sum(axis=1) > votes[:, ~light[:24]].sum(axis=1)
    assert outcome.metrics["knn"] == pytest.approx((named_light == light[24:]).mean())


def test_settings_yaml_is_complete(photos, tmp_path):
    import yaml

    run_cli("pretrain", photos, *TINY, "--out", tmp_path / "run", check=0)
    plain = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    settings = from_dict(plain)
    assert settings.backbone == "resnet10t"
    assert settings.method.dim == 16
    assert settings.views.size == 16


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["fast", "reference"])
def test_real_photographs(tmp_path, pipeline):
    """A flat folder of full-size photographs, through both pipelines."""
    file = DATA / "photos.tar"
    if not file.exists():
        pytest.skip(f"no {file}: set SIAM_DATA to the folder of image sets")
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path, filter="data")
    flags = [
        "--backbone",
        "resnet18",
        "--width",
        "0.25",
        "--views.size",
        "64",
        "--epochs",
        "1",
        "--batch-size",
        "48",
    ]
    done = run_cli(
        "pretrain",
        tmp_path / "photos",
        *flags,
        "--views",
        pipeline,
        "--out",
        tmp_path / "run",
        "--json",
        check=0,
    )
    assert json.loads(done.stdout)["steps"] == 5
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_modules_in_the_image_folder_are_not_imported(photos, tmp_path):
    """By the installed command and its workers, in a folder with files that have the names of modules."""
    for name in ("code", "profile", "siam", "torch"):
        (photos / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    command = [Path(sys.executable).with_name("siam"), "pretrain", ".", *TINY, "--out", tmp_path / "run"]
    subprocess.run([*command, "--loader.cache", "none", "--loader.workers", "1"], cwd=photos, check=True)
    assert not (tmp_path / "executed").exists()


def test_images_seen_do_not_depend_on_how_they_are_loaded(classes, tmp_path):
    """Cached on the device, or from no worker or two: the same crops within the rounding of the resizes."""
    from siam.data.augment import denormalize
    from siam.data.loader import ViewLoader
    from siam.data.sources import open_images
    from siam.settings.pretraining import LoaderSettings, Settings, ViewSettings

    for file in classes.rglob("*.jpg"):  # one size, so that the set can be on the device
        Image.open(file).resize((40, 32)).save(file, quality=95)
    images = open_images(classes).train
    seen = []
    plain_color = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0}
    for loader in (LoaderSettings(0, "none"), LoaderSettings(2, "none"), LoaderSettings(0, "device")):
        settings = Settings(epochs=2, batch_size=8, views=ViewSettings(size=24, **plain_color), loader=loader)
        batches = list(ViewLoader(images, settings, torch.device("cpu")).batches())
        assert [(b.epoch, b.step) for b in batches] == [(e, s) for e in range(2) for s in range(3)]
        seen.append(batches)
    for plain, workers, cached in zip(*seen, strict=True):
        assert (plain.indices == workers.indices).all()
        assert (plain.indices == cached.indices).all()
        assert all(torch.equal(a, b) for a, b in zip(plain.views, workers.views, strict=True))
        for a, b in zip(plain.views, cached.views, strict=True):
            assert ((denormalize(a) - denormalize(b)) * 255).abs().max() <= 1.001
    first = np.concatenate([b.indices for b in seen[0][:3]])
    assert sorted(first) == list(range(24))


def test_a_plain_script_trains_and_embeds_with_workers(photos, tmp_path):
    """Its workers do not run it again, even without `if __name__ == "__main__"`."""
    script = tmp_path / "mine.py"
    script.write_text(
        f"""
import siam
print("begins")
options = dict(backbone="resnet10t", width=0.125, epochs=1, batch_size=8, views={{"size": 16}})
loader = {{"workers": 1, "cache": "none"}}
run = siam.pretrain({str(photos)!r}, out={str(tmp_path / "run")!r}, loader=loader, **options)
vectors, paths = siam.embed(run.run, {str(photos)!r}, workers=1)
print(len(vectors), len(paths))
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["begins", "24 24", ""]


def trained(photos, out, method, lr, **changes):
    """Return the weights after a short run from Python, with 3 steps an epoch."""
    plain = {"backbone": "resnet10t", "width": 0.125, "batch_size": 8, "precision": "float32"}
    heads = {"dim": 16, "projector_hidden": 16, "predictor_hidden": 4, "projector_layers": 2}
    kinds = {"name": method, "prototypes": 6, "queue": 32, **heads, **changes.pop("kinds", {})}
    siam.pretrain(
        photos, method=kinds, out=out, views={"size": 16}, loader={"workers": 0},
        optimizer={"lr": lr}, **plain, **changes,
    )  # fmt: skip
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    return checkpoint["network"], checkpoint["objective"]


def test_prototypes_are_frozen_for_an_epoch(photos, tmp_path):
    """As in SwAV: unchanged after the first epoch at any learning rate, then trained."""
    after = {
        (lr, epochs): trained(photos, tmp_path / f"{lr}-{epochs}", "swav", lr, epochs=epochs)
        for lr in (0.1, 0.7)
        for epochs in (1, 2)
    }
    prototypes = {key: objective["prototypes"] for key, (_, objective) in after.items()}
    assert torch.equal(prototypes[0.1, 1], prototypes[0.7, 1])
    assert not torch.equal(prototypes[0.1, 2], prototypes[0.7, 2])
    assert not torch.equal(prototypes[0.1, 1], prototypes[0.1, 2])


@pytest.mark.parametrize(
    ("momentum", "every", "follows"), [(0.0, 1, "whole"), (0.0, 3, "whole"), (0.0, 2, "a step behind"),
                                       (0.0, 4, "never"), (1.0, 1, "never"), (0.5, 1, "half")],
)  # fmt: skip
def test_the_momentum_encoder_follows_its_schedule(photos, tmp_path, momentum, every, follows):
    """With momentum 0 it equals the encoder after every k-th of three steps (alternation, Sec. 5.2)."""
    schedule = {"momentum": momentum, "momentum_every": every, "momentum_schedule": "constant"}
    weights, _ = trained(photos, tmp_path / "run", "byol", 0.5, epochs=1, kinds=schedule)
    fresh, _ = trained(photos, tmp_path / "still", "byol", 1e-12, epochs=1, kinds=schedule)
    name = "0.conv1.0.weight" if "target_encoder.encoder.0.conv1.0.weight" in weights else "0.conv1.weight"
    slow, fast = weights[f"target_encoder.encoder.{name}"], weights[f"backbone.{name[2:]}"]
    began = fresh[f"target_encoder.encoder.{name}"]
    assert not torch.allclose(fast, began, atol=1e-4)
    assert torch.allclose(slow, fast, atol=1e-6) == (follows == "whole")
    assert torch.allclose(slow, began, atol=1e-6) == (follows == "never")


def test_without_labels_an_accuracy_is_none(photos, tmp_path):
    outcome = siam.pretrain(photos, out=tmp_path / "run", **SHORT)
    assert outcome.metrics["knn"] is outcome.metrics["pixel_knn"] is outcome.metrics["untrained_knn"] is None
    assert outcome.metrics["rank"] > 1


def test_a_fraction_of_a_pass_ends_in_mid_epoch(photos, tmp_path):
    """24 images in batches of 8 and 1.7 epochs: 5 steps, of which the second epoch has 2."""
    run = tmp_path / "run"
    run_cli("pretrain", photos, *TINY, "--epochs", 1.7, "--out", run, check=0)
    epochs = records(run, "epoch")
    assert [(e["epoch"], e["step"]) for e in epochs] == [(0, 3), (1, 5)]
    assert [s["step"] for s in records(run, "step")] == [1, 2, 3, 4, 5]
    assert records(run, "end")[0]["steps"] == 5
    assert (run / "report.html").exists()


def test_metrics_are_measured_every_few_epochs_and_at_the_end(photos, tmp_path):
    run = tmp_path / "run"
    run_cli("pretrain", photos, *TINY, "--epochs", 5, "--monitor.every", 2, "--out", run, check=0)
    epochs = records(run, "epoch")
    assert [e["epoch"] for e in epochs] == [1, 3, 4]
    assert all(e["rank"] > 1 for e in epochs)
    losses = [s["loss"] for s in records(run, "step")]
    assert epochs[1]["loss"] == pytest.approx(np.mean(losses[6:12]), abs=1e-5), "the mean of two epochs"
    assert (run / "pictures.npz").exists()
