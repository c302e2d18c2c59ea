"""Faults of real machines: preemption, SIGKILL, a full disk, damaged files, images that vanish."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from siam.cli import command as cli
from siam.data.loader import ViewLoader
from siam.data.sources import open_images
from siam.errors import RunError
from siam.parts.objective import Objective
from siam.runs.checkpoint import Progress, checkpoints, load_last, save_checkpoint
from siam.runs.folder import open_run
from siam.runs.saving import Saver
from siam.runs.tensors import load_checkpoint
from siam.settings.pretraining import CheckpointSettings, LoaderSettings, Settings, ViewSettings
from siam.system.files import write_atomically
from tests.command import Command
from tests.conftest import TINY
from tests.runs.test_resume import assert_same_run

RUN = [*TINY, "--loader.cache", "none"]


def command(capsys, *args):
    """Run the command in this process. Return the exit status and stderr."""
    status = cli.main([str(arg) for arg in args])
    return status, " ".join(capsys.readouterr().err.split())


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_writing(process, folder):
    """Return True while the process has a file open that does not have a name yet."""
    with contextlib.suppress(OSError):
        files = [os.readlink(file) for file in Path(f"/proc/{process.process.pid}/fd").iterdir()]
        return any(file.startswith(str(folder)) and file.endswith("(deleted)") for file in files)
    return False


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(classes, tmp_path, capsys):
    """SIGKILL at random moments, half of them during the write of a checkpoint: every resume succeeds, and
    weights, metrics and optimizer end bit for bit as in an uninterrupted run.
    """
    flags = [*RUN, "--epochs", 40, "--checkpoint.every", 1, "--monitor.knn-every", 20]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = time.monotonic()
    assert command(capsys, "pretrain", classes, *flags, "--out", whole)[0] == 0
    duration = time.monotonic() - started
    rng, kills = random.Random(0), 0
    args = ["pretrain", classes, *flags, "--out", killed, "--resume", "auto"]
    writing = 0
    while kills < 50:
        process = Command(*args)
        if kills % 2:  # wait for a write to begin, and hit it
            time.sleep(rng.uniform(0, duration / 30))
            deadline = time.monotonic() + duration
            while time.monotonic() < deadline and not is_writing(process, killed):
                pass
            writing += is_writing(process, killed)
        alive = process.kill_after(0 if kills % 2 else rng.uniform(0, duration / 15))
        kills += 1
        if not alive:
            break
    assert kills == 50, f"ended after {kills} kills: {process.said()}"
    assert writing >= 10
    assert Command(*args).wait() == 0
    assert_same_run(whole, killed)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_a_resumable_status(classes, tmp_path, capsys):
    """Status 75, and the resumed run equals an uninterrupted one bit for bit."""
    flags = [*RUN, "--epochs", 24, "--monitor.knn-every", 0]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command(capsys, "pretrain", classes, *flags, "--out", whole)[0] == 0
    args = ["pretrain", classes, *flags, "--out", stopped, "--resume", "auto"]
    for number in (signal.SIGTERM, signal.SIGINT):
        process, log = Command(*args), stopped / "metrics.jsonl"
        before = log.read_text().count("\n") if log.exists() else 0
        wait_until(lambda: log.exists() and log.read_text().count("\n") >= before + 10)  # noqa: B023
        process.signal(number)
        assert process.wait() == 75
        saved = load_checkpoint(stopped / "checkpoint.pt")["progress"]
        assert saved["log_bytes"] == log.stat().st_size  # up to the very step that was under way
    status, err = command(capsys, *args)
    assert status == 0
    assert "(resumed)" in err
    assert_same_run(whole, stopped)


BUSY = """
import time
from siam.runs.saving import StopRequest
with StopRequest():
    print("here", flush=True)
    while True:
        time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_second_signal_ends_at_once():
    """Even if the step never ends; the first may be followed by its echo."""
    here = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": here}
    ) as process:
        assert process.stdout.readline() == b"here\n"
        for wait in (0.2, 2.5):
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(wait)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_does_not_wait_for_silent_workers(photos, tmp_path, number):
    """They never answer: the run is saved within seconds, and continues as if it had not ended."""
    flags = [*RUN, "--epochs", 24, "--loader.workers", 1, "--monitor.knn-every", 0]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert Command("pretrain", photos, *flags, "--out", whole).wait() == 0
    process = Command("pretrain", photos, *flags, "--out", run)
    wait_until((run / "checkpoint.pt").exists)
    main, group = process.process.pid, of_group(process.process.pid)
    workers = [pid for pid, parent in group.items() if parent in group and parent != main]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    process.signal(number)
    assert process.ended(30), process.stderr
    assert process.wait() == 75, process.stderr
    assert "siam: stopped on request after step" in process.said()
    assert Command("pretrain", photos, *flags, "--out", run, "--resume").wait() == 0
    assert_same_run(whole, run)


def of_group(group):
    """Return the live processes of a process group: id -> parent's id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found[int(stat.parent.name)] = int(parent)
    return found


def test_resume_needs_a_run_and_auto_does_not(photos, tmp_path, capsys):
    run = tmp_path / "run"
    status, err = command(capsys, "pretrain", photos, *RUN, "--out", run, "--resume")
    assert status == 2
    assert "there is no run" in err
    assert "--resume auto" in err
    assert command(capsys, "pretrain", photos, *RUN, "--out", run, "--resume", "auto")[0] == 0
    status, err = command(capsys, "pretrain", "--out", run, "--resume", photos, *RUN)
    assert status == 0
    assert "is complete" in err


def test_a_restart_by_torchrun_resumes_by_default(photos, tmp_path, capsys, monkeypatch):
    args = ["pretrain", photos, *RUN, "--out", tmp_path / "run"]
    assert command(capsys, *args)[0] == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "is complete" in command(capsys, *args)[1]


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(photos, tmp_path, capsys, harm):
    """torch loads weights with a flipped bit without an error, but the checksum detects it."""
    flags = [*RUN, "--checkpoint.every", 1, "--checkpoint.keep", 3]
    run = tmp_path / "run"
    assert command(capsys, "pretrain", photos, *flags, "--out", run)[0] == 0
    assert [file.name for file in checkpoints(run)] == [f"checkpoint{n}.pt" for n in ("", ".1", ".2")]
    assert [load_checkpoint(file)["progress"]["step"] for file in checkpoints(run)] == [6, 5, 4]
    weights = load_checkpoint(run / "checkpoint.pt")["network"]

    file = run / "checkpoint.pt"
    data = bytearray(file.read_bytes())
    if harm == "flip":
        value = next(v for k, v in weights.items() if k == "projector.0.weight").numpy().tobytes()
        data[data.index(value) + 5] ^= 1
        torch.load(io.BytesIO(data), weights_only=True)
    file.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b"", "gone": b""}[harm])
    if harm == "gone":
        file.unlink()
    status, err = command(capsys, "pretrain", photos, *flags, "--out", run, "--resume")
    assert status == 0
    assert ("resuming from checkpoint.1.pt" in err) == (harm != "gone")
    again = load_checkpoint(run / "checkpoint.pt")["network"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_no_readable_checkpoint_is_an_error_of_one_line(photos, tmp_path, capsys):
    run = tmp_path / "run"
    assert command(capsys, "pretrain", photos, *RUN, "--out", run)[0] == 0
    for file in checkpoints(run):
        file.write_bytes(b"nothing")
    status, err = command(capsys, "pretrain", photos, *RUN, "--out", run, "--resume")
    assert status == 2
    assert "checkpoint.pt cannot be read" in err


def test_a_save_that_fails_keeps_the_last_one_and_its_copies(tmp_path):
    for step in range(1, 4):
        save_checkpoint(tmp_path, Progress(step=step), keep=2)
    before = [load_checkpoint(file)["progress"]["step"] for file in checkpoints(tmp_path)]
    assert before == [3, 2]

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "checkpoint.pt", full)
    assert [load_checkpoint(file)["progress"]["step"] for file in checkpoints(tmp_path)] == [3, 2]
    assert not list(tmp_path.glob("*.writing"))
    assert load_last(tmp_path)[0]["progress"]["step"] == 3


def test_a_disk_that_stays_full_ends_the_run_after_several_attempts():
    said, calls = [], []

    def write():
        calls.append(1)
        if len(calls) not in (3, 9):
            raise OSError(28, "No space left on device", "run/checkpoint.pt")

    saver = Saver(CheckpointSettings(every="10m"), 0, said.append)
    for step in range(1, 8):
        saver.save(step, write)
    assert (
        "step 1 could not be saved: No space left on device (run/checkpoint.pt); nothing has been saved"
        in said[0]
    )
    assert "the checkpoint of step 3 is kept" in said[-1]
    with pytest.raises(
        RunError,
        match=r"in 5 attempts: .*; the checkpoint of step 3 is kept; "
        r"free some space and continue with --resume",
    ):
        saver.save(8, write)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, if this machine allows mounting one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_gives_warnings_and_keeps_the_last_checkpoint(photos, small_disk, tmp_path, capsys):
    """Full during the run: warnings, a clean end, and no loss. With space again the run completes."""
    flags = [*RUN, "--epochs", 30, "--checkpoint.every", 2, "--monitor.knn-every", 0]
    whole, run = tmp_path / "whole", small_disk / "run"
    assert command(capsys, "pretrain", photos, *flags, "--out", whole)[0] == 0
    filler = small_disk / "filler"
    process = Command("pretrain", photos, *flags, "--out", run)
    wait_until((run / "checkpoint.1.pt").exists)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert process.wait() == 2
    err = process.said()
    assert "could not be saved: No space left on device" in err
    assert re.search(
        r"siam: step \d+ could not be saved in 5 attempts: .*; "
        r"the checkpoint of step \d+ is kept; free some space",
        err,
    )
    assert "Traceback" not in err
    kept, complaint = load_last(run)
    assert f"step {kept['progress']['step']} is kept" in err
    assert not complaint
    filler.unlink()
    assert command(capsys, "pretrain", photos, *flags, "--out", run, "--resume")[0] == 0
    assert_same_run(whole, run)


def test_an_unwritable_folder_is_an_error_of_one_line(photos, small_disk, capsys):
    run = small_disk / "run"
    assert command(capsys, "pretrain", photos, *RUN, "--out", run)[0] == 0
    (run / "metrics.jsonl").write_text("")  # as if it had not finished
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for args in (["--out", run, "--resume"], ["--out", small_disk / "other"]):
        status, err = command(capsys, "pretrain", photos, *RUN, *args)
        assert status == 2
        assert re.search(r"siam: cannot write to .*: Read-only file system; choose another --out$", err)


def test_a_result_that_cannot_be_saved_is_still_printed(classes, small_disk, capsys):
    run = small_disk / "run"
    assert command(capsys, "pretrain", classes, *RUN, "--out", run)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cli.main(["evaluate", str(run), str(classes), "--workers", "0"]) == 2
    printed = capsys.readouterr()
    assert "top1" in printed.out
    assert re.search(
        r"siam: the result was not saved: cannot write to .*: Read-only file system$", printed.err.strip()
    )


def test_a_file_as_run_folder_is_refused(photos, tmp_path, capsys):
    (tmp_path / "c.pth").write_bytes(b"")
    status, err = command(
        capsys, "pretrain", photos, *RUN, "--init", tmp_path / "c.pth", "--out", tmp_path / "r"
    )
    assert status == 2
    assert "is a file, not a run folder: run siam import" in err


def test_images_that_vanish_end_the_run_and_cost_nothing(photos, tmp_path, capsys, monkeypatch):
    """The progress is saved first; with the images restored, the run equals an uninterrupted one."""
    whole, run, away = tmp_path / "whole", tmp_path / "run", tmp_path / "away"
    assert command(capsys, "pretrain", photos, *RUN, "--out", whole)[0] == 0
    from siam.train import pretrain

    losing, count = pretrain.set_learning_rate, []

    def lose_the_images(*args):
        count.append(1)
        if len(count) == 4:
            photos.rename(away)
        return losing(*args)

    monkeypatch.setattr(pretrain, "set_learning_rate", lose_the_images)
    status, err = command(capsys, "pretrain", photos, *RUN, "--out", run)
    assert status == 2
    assert re.search(r"can no longer be read: 24 images in a row, .* \(No such file or directory\)", err)
    assert "continue with --resume" in err
    saved = load_checkpoint(run / "checkpoint.pt")["progress"]
    assert (saved["step"], saved["unreadable"]) == (4, {})
    away.rename(photos)
    assert command(capsys, "pretrain", photos, *RUN, "--out", run, "--resume")[0] == 0
    assert_same_run(whole, run)


@pytest.mark.slow
def test_a_worker_that_dies_is_restarted_once(photos):
    """Batches are those of a run without a crash; a second crash on the same batch ends the run."""
    settings = Settings(epochs=3, batch_size=4, views=ViewSettings(size=16), loader=LoaderSettings(1, "none"))
    images = open_images(photos).train
    expected = [batch.views for batch in ViewLoader(images, settings, torch.device("cpu")).batches()]
    said = []
    loader = ViewLoader(Fatal(images), settings, torch.device("cpu"), warn=said.append)
    seen = []
    with pytest.raises(RunError, match="a data worker was killed by SIGKILL twice on the same batch"):
        seen.extend(batch.views for batch in loader.batches())
    # Once or more: batches that were ready before the fatal one may be lost with the worker that made them.
    assert set(said) == {"a data worker was killed by SIGKILL; restarting the workers"}
    for views, same in zip(seen, expected, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(views, same, strict=True))


class Fatal:
    """Images of which one kills the process that reads it, as running out of memory does."""

    labels, classes, groups = None, (), None

    def __init__(self, images):
        self.images, self.name, self.size_hint = images, images.name, images.size_hint

    def __len__(self):
        return len(self.images)

    def path(self, i):
        return self.images.path(i)

    def encoded(self, i):
        if i == 5 and __import__("multiprocessing").parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images.encoded(i)


def test_a_loss_that_is_not_finite_names_its_step_and_batch(photos, tmp_path, capsys, monkeypatch):
    """The last checkpoint before it is kept, however often the loss is checked."""
    from siam.train import pretrain

    true, calls = pretrain.build_objective, []

    class NotFinite(Objective):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *outputs):
            calls.append(1)
            return self.inner(*outputs) * (torch.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(pretrain, "build_objective", lambda *args: NotFinite(true(*args)))
    run = tmp_path / "run"
    status, err = command(
        capsys, "pretrain", photos, *RUN, "--monitor.log-every", 100, "--checkpoint.every", 2, "--out", run
    )
    assert status == 2
    order = ViewLoader(open_images(photos).train, open_run(run).settings, torch.device("cpu")).order
    names = ", ".join(open_images(photos).train.path(int(i)) for i in order.epoch(1)[1][:3])
    assert f"the loss is not finite at step 5 (epoch 2; images {names}, ...);" in err
    saved = load_checkpoint(run / "checkpoint.pt")["progress"]
    assert saved["step"] == 4


@pytest.mark.parametrize(
    ("every", "steps", "seconds"),
    [("10m", 0, 600), ("500", 500, float("inf")), ("1.5h,20", 20, 5400), ("90s, 7", 7, 90)],
)
def test_checkpoints_by_steps_and_time(every, steps, seconds):
    settings = CheckpointSettings(every=every)
    assert (settings.steps, settings.seconds) == (steps, seconds)


def test_progress_is_plain_json():
    json.dumps(vars(Progress()))
