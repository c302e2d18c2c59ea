"""A session on its own, around a trainer of a dozen lines: what it saves, resumes, logs and refuses."""

import io
import json
import os
import signal
import time

import pytest
import torch
from rich.console import Console

from siam.errors import DataError, Diverged, RunError
from siam.runs import clock
from siam.runs.checkpoint import load_last
from siam.runs.saving import RunStopped, StopRequest
from siam.runs.session import Session
from siam.settings.pretraining import CheckpointSettings, Settings
from siam.settings.schedule import Schedule

STEPS = 12


def train(folder, every="4", before_step=lambda step: None, batches=None):
    """Fit a line to noise from torch's generator. Return its weights and the output."""
    folder.mkdir(exist_ok=True)
    settings = Settings(device="cpu", precision="float32", seed=3, checkpoint=CheckpointSettings(every))
    console = Console(file=io.StringIO())
    with Session(folder, settings, console) as run:
        torch.manual_seed(settings.seed)
        line = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(line.parameters(), lr=0.1, momentum=0.9)
        run.restore(line=line, optimizer=optimizer)
        run.begin(
            Schedule(1, STEPS), log_every=2, lr_setting="lr", name_batch=lambda step: f" (batch {step})"
        )
        for _ in run.guard(iter(batches or range(STEPS - run.step))):
            before_step(run.step)
            run.seed_step()
            loss = (line(torch.randn(8, 2)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.advance(loss.detach(), ends_epoch=run.step + 1 == STEPS)
            if run.should_log:
                run.log.log("step", step=run.step, loss=run.loss)
            run.save_or_stop()
        run.finish()
        return line.weight.detach().clone(), run, console.file.getvalue()


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def raising(error, at):
    def before_step(step):
        if step == at:
            raise error

    return before_step


def test_a_killed_run_resumes_as_if_uninterrupted(tmp_path):
    """Weights and records: those logged after the last checkpoint are dropped and logged again."""
    whole, _, _ = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "died", before_step=raising(KeyboardInterrupt(), at=7))
    assert [record["step"] for record in records(tmp_path / "died")] == [2, 4, 6]
    assert load_last(tmp_path / "died")[0]["progress"]["step"] == 4
    again, run, _ = train(tmp_path / "died")
    assert run.resumed
    assert torch.equal(again, whole)
    assert records(tmp_path / "died") == records(tmp_path / "whole")


def test_a_stopped_run_saves_and_reports_how_to_resume(tmp_path):
    def before_step(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunStopped, match=r"after step 6 of 12, saved in .*: continue with --resume"):
        train(tmp_path / "run", before_step=before_step)
    assert load_last(tmp_path / "run")[0]["progress"]["step"] == 6


def test_progress_is_saved_if_the_images_end_early(tmp_path):
    def batches():
        yield from range(6)
        raise DataError("no more images")

    with pytest.raises(DataError, match="no more images"):
        train(tmp_path / "run", batches=batches())
    assert load_last(tmp_path / "run")[0]["progress"]["step"] == 6


def test_a_loss_that_is_not_finite_names_its_step_and_never_reaches_the_checkpoint(tmp_path):
    real = torch.Tensor.square

    def before_step(step):
        torch.Tensor.square = real if step != 8 else lambda x: real(x) * torch.inf

    try:
        with pytest.raises(Diverged, match=r"at step 9 \(batch 8\); the last good checkpoint is kept"):
            train(tmp_path / "run", before_step=before_step)
    finally:
        torch.Tensor.square = real
    contents, _ = load_last(tmp_path / "run")
    assert contents["progress"]["step"] == 8
    assert contents["line"]["weight"].isfinite().all()
    assert records(tmp_path / "run")[-1]["kind"] == "diverged"


def test_what_is_saved_when_the_images_end_is_the_exact_position(tmp_path):
    """Also between two records, where the sum of the losses is on the device alone."""

    def batches(count):
        yield from range(count)
        raise DataError("no more images")

    losses = {}
    for count in (4, 5):
        with pytest.raises(DataError):
            train(tmp_path / str(count), every="2h", batches=batches(count))
        progress = load_last(tmp_path / str(count))[0]["progress"]
        assert progress["step"] == count
        losses[count] = progress["loss_sum"]
    assert losses[5] > losses[4] > 0


def test_after_its_end_a_signal_ends_the_process_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    folder = tmp_path / "run"
    folder.mkdir()
    with Session(folder, Settings(device="cpu"), Console(quiet=True)) as run:
        run.begin(Schedule(1, 1), 1, "lr")
        assert signal.getsignal(signal.SIGTERM) != before
        run.finish()
        assert signal.getsignal(signal.SIGTERM) == before


def test_a_report_that_cannot_be_drawn_costs_a_line(tmp_path):
    def damaged(folder, warn):
        raise RunError("evaluations.json cannot be read")

    folder = tmp_path / "run"
    folder.mkdir()
    console = Console(file=io.StringIO())
    with Session(folder, Settings(device="cpu"), console, damaged) as run:
        run.begin(Schedule(1, 1), 1, "lr")
        run.write_report()
    assert "the report could not be written: evaluations.json cannot be read" in console.file.getvalue()


def test_the_rate_leaves_out_what_is_no_training(monkeypatch):
    """Steps before a pause count, its seconds do not."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    watch = clock.Clock(seconds=50.0, step=10)
    now[0] += 4
    with watch.paused():
        now[0] += 1000
    now[0] += 1
    assert watch.rate(20, batch_size=32) == pytest.approx(10 * 32 / 5)
    assert watch.seconds() == pytest.approx(50 + 1005)
    now[0] += 2
    assert watch.rate(24, batch_size=32) == pytest.approx(4 * 32 / 2)


def test_a_folder_has_one_session_at_a_time(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (
        Session(folder, Settings(device="cpu"), Console(quiet=True)),
        pytest.raises(RunError, match="is in use by another process"),
        Session(folder, Settings(device="cpu"), Console(quiet=True)),
    ):
        pass
    with Session(folder, Settings(device="cpu"), Console(quiet=True)):
        pass


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path / "run")
    with (
        pytest.raises(RunError, match="does not match this run"),
        Session(tmp_path / "run", Settings(device="cpu"), Console(quiet=True)) as run,
    ):
        run.restore(line=torch.nn.Linear(5, 1))


def measured(folder, block):
    """Run `block` as the measurement after the last of three steps. Return the session."""
    folder.mkdir(exist_ok=True)
    with Session(folder, Settings(device="cpu"), Console(quiet=True)) as run:
        line = torch.nn.Linear(2, 1)
        run.restore(line=line)
        run.begin(Schedule(1, 3), 1, "lr")
        for _ in run.guard(iter(range(3 - run.step))):
            run.advance(torch.tensor(0.0), ends_epoch=run.step == 2)
        assert run.step == 3
        with run.measuring():
            block()
        return run


def test_a_stop_is_heard_during_a_measurement_which_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(StopRequest, "LIMIT", 0.2)

    def forward():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(RunStopped, match=r"after step 3 of 3, saved in .*: continue with --resume"):
        measured(tmp_path / "run", forward)
    assert time.monotonic() - started < 50
    progress = load_last(tmp_path / "run")[0]["progress"]
    assert (progress["step"], progress["unmeasured"]) == (3, True)
    assert not measured(tmp_path / "run", lambda: None).progress.unmeasured


def test_a_short_measurement_is_completed_before_a_stop(tmp_path):
    run = measured(tmp_path / "run", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run.stop.requested
    assert not run.progress.unmeasured


def test_a_run_that_was_killed_after_its_last_step_takes_no_other(tmp_path):
    """Its loader may go on: with a time limit, the last step is not known in advance."""
    train(tmp_path / "run")
    _, run, _ = train(tmp_path / "run", batches=range(100))
    assert run.step == STEPS
