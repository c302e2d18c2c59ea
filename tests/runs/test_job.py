"""Resuming over other images, other settings or another number of threads; finished runs."""

import json
import shutil

import pytest
import torch
import yaml

import siam
from siam.cli import command as cli
from siam.errors import RunError
from siam.runs.checkpoint import load_last
from siam.runs.folder import open_run
from tests.conftest import TINY


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run and its images, in one folder."""
    from tests.conftest import save_images

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("job")
    (folder / "photos").mkdir()
    save_images(folder / "photos", 24, seed=0)
    args = ["pretrain", folder / "photos", *TINY, "--epochs", 1, "--out", folder / "run"]
    assert cli.main([str(arg) for arg in args]) == 0
    return folder


@pytest.fixture
def finished(original, tmp_path):
    """A copy of the run, with its images."""
    shutil.copytree(original, tmp_path / "job")
    return tmp_path / "job"


@pytest.fixture
def interrupted(finished):
    """The run as if it had been killed after its last checkpoint."""
    log = finished / "run" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    return finished


def resume(capsys, folder, *args):
    """Resume with the images next to the run. Return the exit status and stderr."""
    status = cli.main(["pretrain", str(folder / "photos"), "--out", str(folder / "run"), "--resume", *args])
    return status, " ".join(capsys.readouterr().err.split())


def records(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_images_at_another_place_are_the_same_images(interrupted, capsys):
    status, err = resume(capsys, interrupted)  # the run began in another folder
    assert status == 0, err
    assert "(resumed)" in err
    assert "instead of" not in err
    assert open_run(interrupted / "run").settings.data == str(interrupted / "photos")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda photos: (photos / "001.jpg").unlink(), "23 training images instead of 24"),
        (
            lambda photos: shutil.copy(photos / "001.jpg", photos / "x.jpg"),
            "25 training images instead of 24",
        ),
        (lambda photos: (photos / "001.jpg").rename(photos / "x.jpg"), "training images with other names"),
        (lambda photos: shutil.copy(photos / "001.jpg", photos / "002.jpg"), "with other contents"),
    ],
)
def test_changed_images_are_refused(interrupted, capsys, change, says):
    change(interrupted / "photos")
    before = (interrupted / "run" / "checkpoint.pt").read_bytes()
    status, err = resume(capsys, interrupted)
    assert status == 2
    assert f"the images changed since {interrupted / 'run'} began" in err
    assert says in err
    assert f"--init {interrupted / 'run'} --out OTHER" in err
    assert (interrupted / "run" / "checkpoint.pt").read_bytes() == before


def edit_settings(folder, **changes):
    file = folder / "run" / "settings.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def test_settings_edited_by_hand_are_refused(interrupted, capsys):
    plain = yaml.safe_load((interrupted / "run" / "settings.yaml").read_text())
    edit_settings(interrupted, optimizer={**plain["optimizer"], "lr": 0.5}, seed=7)
    status, err = resume(capsys, interrupted)
    assert status == 2
    assert f"the settings in {interrupted / 'run'} were edited since its last checkpoint" in err
    assert "seed (0 and 7)" in err
    assert "optimizer.lr (0.03 and 0.5)" in err


def test_edited_settings_without_influence_on_the_result_are_taken(interrupted, capsys):
    plain = yaml.safe_load((interrupted / "run" / "settings.yaml").read_text())
    edit_settings(interrupted, checkpoint={**plain["checkpoint"], "keep": 3}, timeout="5m")
    status, err = resume(capsys, interrupted)
    assert status == 0, err
    assert open_run(interrupted / "run").settings.checkpoint.keep == 3


def test_another_number_of_threads_is_said_and_recorded(interrupted, capsys):
    torch.set_num_threads(2)
    status, err = resume(capsys, interrupted)
    assert status == 0, err
    assert "resumed with threads 2 instead of 1: the result may differ" in err
    (noted,) = (record for record in records(interrupted) if record["kind"] == "resume")
    assert "threads 2 instead of 1" in noted["difference"]
    assert noted["step"] == 3
    assert records(interrupted)[-1]["kind"] == "end"


def test_a_checkpoint_names_the_images_the_settings_and_the_machine(original):
    job = load_last(original / "run")[0]["progress"]["job"]
    assert job["images"]["training"]["images"] == 24
    assert job["settings"]["epochs"] == 1
    assert (job["machine"]["device"], job["machine"]["threads"]) == ("cpu", 1)


def test_a_finished_run_is_complete_even_if_its_images_are_gone(finished, capsys):
    shutil.rmtree(finished / "photos")
    before = (finished / "run" / "metrics.jsonl").read_bytes()
    outcome = siam.pretrain(out=finished / "run", resume=True)
    assert outcome.epochs == 1
    assert outcome.run == str(finished / "run")
    assert outcome.metrics["rank"] == records(finished)[-1]["rank"]
    err = " ".join(capsys.readouterr().err.split())
    assert "is complete: 1 epoch, 3 steps; to train further, start another run from its weights" in err
    assert (finished / "run" / "metrics.jsonl").read_bytes() == before


def test_more_epochs_point_to_init(finished, capsys):
    status, err = resume(capsys, finished, "--epochs", "5")
    assert status == 2
    assert "epochs (1 and 5)" in err
    assert f"--init {finished / 'run'} --out OTHER" in err
    assert "schedule" in err


@pytest.mark.parametrize(
    "name", ["settings.yaml", "metrics.jsonl", "report.html", "pictures.npz", "tensorboard"]
)
def test_a_folder_with_a_file_of_the_users_is_no_run_folder(original, tmp_path, capsys, name):
    """Names that anyone might use."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    args = ["pretrain", original / "photos", *TINY, "--out", tmp_path / "mine"]
    assert cli.main([str(arg) for arg in args]) == 2
    assert f"mine already contains {name}" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "precious"


def test_a_link_in_place_of_the_log_is_not_written_through(original, tmp_path):
    thesis, mine = tmp_path / "thesis.txt", tmp_path / "mine"
    thesis.write_text("precious")
    mine.mkdir()
    (mine / "metrics.jsonl").symlink_to(thesis)
    with pytest.raises(RunError, match=r"already contains metrics\.jsonl"):
        siam.pretrain(original / "photos", out=mine)
    assert thesis.read_text() == "precious"
