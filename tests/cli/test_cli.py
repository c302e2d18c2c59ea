"""The command as a user sees it: its output and its errors."""

import fcntl
import json
import subprocess
import sys
import threading

import pytest

from siam.cli import command as cli
from tests.conftest import TINY, run_cli, save_images


def refused(capsys, *args):
    """Run the command in this process. Check status 2 and one line of error, and return stderr.

    Lines about the images or the plan may come first.
    """
    assert cli.main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("siam: ")
    assert err.count("siam: ") == 1
    assert err.count("\n") <= 5
    return err


def test_help_needs_neither_torch_nor_tyro():
    code = (
        "import sys; from siam.cli import main; main(['--help']); "
        "print('torch' in sys.modules, 'tyro' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "siam pretrain photos/" in done.stdout
    assert done.stdout.endswith("False False\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pretrian"], "did you mean pretrain?"),
        (["pretrain", "--epoch", "3"], "unknown setting '--epoch'; did you mean --epochs"),
        (["pretrain", "--method.targt", "gradient"], "did you mean --method.target"),
        (["pretrain", "--method.target", "lve"], "invalid choice 'lve'"),
        (["pretrain", "--epochs", "many"], "Error parsing --epochs"),
        (["pretrain", "--epochs", "0"], "epochs must be above 0"),
        (["pretrain", "--method", "simsiamm"], "unknown method 'simsiamm'; did you mean simsiam"),
        (["pretrain", "--recipe", "cifar"], "unknown recipe 'cifar'; did you mean cifar10"),
        (["pretrain", "--backbone", "resnet51"], "unknown backbone 'resnet51'; did you mean resnet"),
        (
            ["pretrain", "--batch-size", "6000"],
            "batch_size 6000 is larger than the dataset (5000 images in demo)",
        ),
        (["pretrain", "--device", "cuda:7"], "device 'cuda:7' is not available here: choose cpu"),
        (
            ["pretrain", "--method", "simclr", "--batch-size", "1"],
            "batch_size must be at least 2 (batch norm and negatives need more than one image), got 1",
        ),
        (["pretrain", "nowhere/photos"], "nowhere/photos"),
        (["pretrain", "nowhere/photos", "--sync-bn", "false"], "nowhere/photos"),
        (["pretrain", "nowhere/photos", "--sync-bn=true"], "nowhere/photos"),
        (["pretrain", "--sync-bn", "falsely"], "invalid choice 'falsely'"),
        (["pretrain", "--timeout", "10"], "timeout must be a time such as 90s, 10m, 2h or 1d, got '10'"),
        (["pretrain", "--checkpoint.every", "10x"], "checkpoint.every must be a time"),
        (
            ["pretrain", "--device", "cpu", "--devices", "3"],
            "batch_size 32 cannot be split evenly across 3 processes",
        ),
        (
            ["pretrain", "--device", "cpu", "--devices", "2", "--batch-size", "36", "--grad-accum", "4"],
            "set it to a multiple of 8, with at least 2 images for each of the 4 micro-batches",
        ),
    ],
)
def test_invalid_settings_are_an_error_of_one_line(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *args)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pretrain", "--lr", "0.1"], "unknown setting '--lr'; did you mean --optimizer.lr?"),
        (["pretrain", "--epochs", "three"], "'three' is not a number"),
        (["pretrain", "--method", "simclr", "--batch-size", "1"],
         "batch_size must be at least 2 (batch norm and negatives need more than one image), got 1"),
        (["reproduce", "methods", "--method", "byol"],
         "unknown setting '--method': each table row sets its own method"),
        (["pretrain", "--method.name", "byol"], "unknown setting '--method.name'; did you mean --method"),
        (["reproduce", "methods", "--seed", "3"], "set the number of seeds with --seeds"),
        (["reproduce", "methods", "--method.queue", "10"], "method.queue must be larger than batch_size"),
        (["reproduce", "batch-size", "--batch-size", "100000"], "needs more than the 5000 images in demo"),
        (["pretrain", "--recipe", "imagenet", "--backbone", "inception_v3", "--views.size", "32"],
         "backbone 'inception_v3' does not support views of 32 x 32 pixels"),
    ],
)  # fmt: skip
def test_invalid_settings_are_reported_before_training(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *args)
    assert not list(tmp_path.rglob("settings.yaml"))


def test_an_empty_folder_and_a_single_image(capsys, tmp_path, photos):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images" in refused(capsys, "pretrain", empty, "--out", tmp_path / "run")
    for file in sorted(photos.iterdir())[1:]:
        file.unlink()
    says = "photos has only one image, but training needs at least 2: use a larger dataset"
    assert says in refused(capsys, "pretrain", photos, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert says in refused(capsys, "bench", photos)


def test_a_summary_of_the_images_is_printed_before_they_are_read(capsys, tmp_path, classes):
    """Reading them then fails, because they differ in size."""
    save_images(classes, 1, seed=0)
    args = [classes, *TINY, "--loader.cache", "device", "--out", tmp_path / "run"]
    assert cli.main(["pretrain", *map(str, args)]) == 2
    found, headline, error = capsys.readouterr().err.splitlines()
    assert found == (
        f"{classes}: 24 images in train/, 12 for validation in val/, 2 classes; left out: 1 image outside "
        "train/ and val/ (000.jpg)"
    )
    assert headline == f"simsiam on {classes}: resnet10t, batches of 8, 2 epochs -> {tmp_path / 'run'}"
    assert error.startswith("siam: loader.cache device requires images of equal size")
    assert not (tmp_path / "run" / "settings.yaml").exists(), "no run to be resumed: it has yet to begin"


def test_an_unwritable_out(capsys, tmp_path, photos):
    file = tmp_path / "file"
    file.touch()
    assert "cannot write to" in refused(capsys, "pretrain", photos, "--out", file / "run")


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(capsys, tmp_path, photos):
    run = tmp_path / "run"
    assert cli.main(["pretrain", str(photos), *TINY, "--out", str(run)]) == 0
    capsys.readouterr()
    assert "already contains a run" in refused(capsys, "pretrain", photos, *TINY, "--out", run)
    again = ["pretrain", f"{photos}/", *TINY, "--out", run, "--resume"]  # the same folder, typed otherwise
    assert cli.main([str(arg) for arg in again]) == 0
    capsys.readouterr()
    other = ["pretrain", photos, *TINY, "--out", run, "--resume", "--optimizer.lr", "0.3"]
    assert "different settings: optimizer.lr (0.03 and 0.3)" in refused(capsys, *other)
    log = run / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))  # as if it had not finished
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use by another process" in refused(
            capsys, "pretrain", photos, *TINY, "--out", run, "--resume"
        )


@pytest.mark.parametrize("weights", ["checkpoint.pt", "encoder.safetensors", "network.safetensors"])
def test_a_folder_with_weights_is_never_overwritten(capsys, tmp_path, photos, weights):
    """An imported run has no checkpoint, and a run's checkpoint may have been deleted."""
    run = tmp_path / "run"
    run.mkdir()
    (run / weights).write_bytes(b"precious")
    assert "already contains a run" in refused(capsys, "pretrain", photos, *TINY, "--out", run)
    assert (run / weights).read_bytes() == b"precious"


def test_a_run_without_weights_is_started_again(capsys, tmp_path, photos):
    """After divergence there is nothing worth keeping, so the folder need not be cleared by hand."""
    run = tmp_path / "run"
    assert cli.main(["pretrain", str(photos), *TINY, "--optimizer.lr", "1e30", "--out", str(run)]) == 2
    assert "lower optimizer.lr" in capsys.readouterr().err
    assert cli.main(["pretrain", str(photos), *TINY, "--out", str(run)]) == 0
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "diverged" not in kinds
    assert kinds[-1] == "end"


def test_a_run_leaves_its_files_and_reports_its_last_epoch(photos, tmp_path):
    outcome = json.loads(
        run_cli("pretrain", photos, *TINY, "--out", tmp_path / "run", "--json", check=0).stdout
    )
    assert outcome["steps"] == 2 * (24 // 8)
    assert outcome["knn"] is None, "there are no labels"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last_epoch = [record for record in records if record["kind"] == "step"][3:]
    rank_z = [record for record in records if record["kind"] == "epoch"][-1]["rank_z"]
    loss, std = (sum(record[name] for record in last_epoch) / 3 for name in ("loss", "std"))
    assert outcome["loss"] == pytest.approx(loss, abs=1e-6)
    assert outcome["std"] == pytest.approx(std, abs=1e-6)
    floor = 2 * 7**0.5 / 8  # of the std, in batches of 8 whose z has mean 0
    collapsed, low_rank = std < floor + 0.1 * (1 - floor), rank_z < 16 / 4  # of d = 16
    assert outcome["verdict"] == ("collapsed" if collapsed else "at risk" if low_rank else "healthy")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"settings.yaml", "metrics.jsonl", "checkpoint.pt", "encoder.safetensors", "report.html"} <= names
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_refused_start_leaves_no_folder(capsys, photos, tmp_path):
    """The device is looked for when the folder has been claimed."""
    run = tmp_path / "run"
    refused(capsys, "pretrain", photos, *TINY, "--device", "cuda:7", "--out", run)
    assert not run.exists()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), BlockingIOError(11, "fork")])
def test_a_limit_of_threads_and_processes_is_named(capsys, monkeypatch, error):
    """As `ulimit -u` sets it. RuntimeError is Python's for threads."""

    def start(*args):
        raise error

    monkeypatch.setattr(cli, "find_verbs", start)
    assert "starts no more threads or processes" in refused(capsys, "pretrain")


def test_without_threads_the_command_still_runs(capsys, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("siam ")
