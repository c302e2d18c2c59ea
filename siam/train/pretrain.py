"""The pretraining loop: Algorithm 1 of SimSiam (Chen & He 2021), with logging, metrics and checkpoints."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from siam.data.feeds import Batch
from siam.data.fingerprint import fingerprint
from siam.data.images import ImageSets
from siam.data.loader import ViewLoader
from siam.measure.collapse import ADVICE, embedding_std, std_at_collapse, verdict
from siam.measure.usefulness import usefulness
from siam.metrics import Values, all_metrics, in_words, live_metrics
from siam.network import Network
from siam.objectives import build_objective
from siam.parts.backbone import features_of
from siam.parts.momentum import momentum_at
from siam.parts.objective import Objective
from siam.processes.agree import on_rank_zero
from siam.processes.data_parallel import average_statistics
from siam.processes.gather import all_gather, world_size
from siam.runs.bars import transient_progress
from siam.runs.checkpoint import checkpoints
from siam.runs.encoder import save_encoder
from siam.runs.folder import save_settings
from siam.runs.job import require_same_job, train_on
from siam.runs.session import Session
from siam.settings.checks import parse_duration
from siam.settings.pretraining import Settings
from siam.settings.schedule import Schedule
from siam.train.initialize import initialize
from siam.train.monitor import Measured, Monitor
from siam.train.optimizer import set_learning_rate
from siam.train.pictures import take_pictures
from siam.train.step import Step


@dataclass(frozen=True)
class Outcome:
    """The result of a pretraining run."""

    run: str
    verdict: str
    loss: float
    std: float
    """Mean std of z/|z| over the last epoch, times sqrt(d)."""
    metrics: Values
    """Last value of each metric, and its baselines (pixel_NAME and untrained_NAME); None if not measured."""
    epochs: float
    steps: int
    seconds: float
    pairs_per_second: float

    def flat(self) -> dict[str, Any]:
        """Return all fields, including each metric, as a flat dict."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain.pop("metrics"), **plain}


def train(
    sets: ImageSets, settings: Settings, folder: Path, console: Console, began: float | None = None
) -> Outcome:
    """Train the run in `folder` to completion, resuming from its last checkpoint if there is one.

    All ranks must call this function; only rank 0 writes files. Checkpoints are saved at the end of each
    epoch, at the intervals set by `checkpoint.every`, and when a stop is requested. Raises SiamError.
    began: when the run's time limit began, in seconds since the epoch; default: now.
    """
    method = settings.method
    with Session(folder, settings, console, _write_report) as run:
        network, objective = build(settings, len(sets.train), run)
        step = Step(network, objective, settings, run.device)
        run.restore(network=network, objective=objective, optimizer=step.optimizer)
        run.print(_headline(sets, settings, folder, run.resumed))
        require_same_job(run, partial(fingerprint, sets), train_on(folder), len(sets.train))
        with transient_progress(run.console) as bar:
            on_read = bar("reading all images")
            loader = ViewLoader(sets.train, settings, run.device, warn=run.print, progress=on_read)
            monitor = Monitor(sets, settings, run.device, run.bf16, bar)
        run.track_unreadable(loader.unreadable, loader.record_unreadable)
        on_rank_zero(lambda: save_settings(folder, settings))  # from now on, the run can be resumed

        schedule, every = Schedule(loader.steps, settings.epochs), settings.monitor.every
        seconds = _seconds_left(settings, began)
        run.begin(schedule, settings.monitor.log_every, "optimizer.lr", partial(_name_batch, loader), seconds)
        run.with_checkpoint(lambda: save_encoder(folder, network.backbone, settings))
        if not settings.sync_bn:
            run.before_save(lambda: average_statistics(network))
        if not run.resumed:
            with run.measuring():
                run.progress.metrics = monitor.baselines(network, run.show_measuring)
            run.log.log("start", **_facts(sets, network, run), **run.progress.metrics)
        measure = partial(_measure_epoch, run, settings, sets, monitor, network)
        if run.progress.unmeasured:
            measure(next(loader.batches(*divmod(run.step - 1, loader.steps))))
            run.save()

        for batch in run.guard(loader.batches(*divmod(run.step, loader.steps))):
            epochs_done = schedule.epoch(run.step)
            lr = set_learning_rate(step.optimizer, settings.optimizer, epochs_done, settings.epochs)
            run.seed_step()

            images = torch.from_numpy(batch.indices)
            loss, z = step(batch.views, images, batch.epoch)  # forward, backward, optimizer step
            if (run.step + 1) % method.momentum_every == 0:
                t = schedule.progress(run.step)
                network.update_target(momentum_at(t, method.momentum, method.momentum_schedule))

            last = run.step + 1 == run.total_steps
            ends_epoch = last or (batch.step + 1 == loader.steps and (batch.epoch + 1) % every == 0)
            run.advance(loss, ends_epoch)
            if run.should_log:
                _log_step(run, batch.epoch, float(embedding_std(all_gather(z))), lr)
            if ends_epoch:
                measure(batch)
            run.save_or_stop()
        return _finish(run, settings, sets)


def build(settings: Settings, images: int, run: Session) -> tuple[Network, Objective]:
    """Build the network and its objective from the seed or, at the start of a run, from `init`.

    images: number of training images.
    """
    torch.manual_seed(settings.seed)
    network = Network(settings.method, settings.backbone, settings.views.size, settings.width, settings.stem)
    if settings.init and not on_rank_zero(lambda: checkpoints(run.folder)):
        run.print(initialize(settings, network))
    network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, build_objective(settings.method, images).to(run.device)


def _seconds_left(settings: Settings, began: float | None) -> float:
    """Return the training time that the settings leave for the steps, in seconds; 0 if it is not limited."""
    if not settings.time_limit:
        return 0.0
    spent = 0.0 if began is None else time.time() - began
    return max(1.0, parse_duration(settings.time_limit, "time_limit") - spent)


def _log_step(run: Session, epoch: int, std: float, lr: float) -> None:
    """Log loss, std of z, learning rate and throughput, and update the progress bar's text."""
    rate = run.rate()
    run.progress.add(std=std, logged=1)
    run.log.log("step", epoch=epoch, step=run.step, loss=run.loss, std=std, lr=lr, pairs_per_second=rate)
    known = {name: value for name, value in run.progress.metrics.items() if value is not None}
    live = in_words({name: known[name] for name in live_metrics() if name in known})
    run.log.progress(run.step, [f"loss {run.loss:.3f}", f"std {std:.2f}", *live, f"{rate:.0f} pairs/s"])


def _measure_epoch(
    run: Session, settings: Settings, sets: ImageSets, monitor: Monitor, network: Network, batch: Batch
) -> None:
    """Measure the network after an epoch, whose last batch is `batch`; log it and show it in the report."""
    last, early = run.step == run.total_steps, batch.epoch < settings.monitor.every
    with run.measuring():
        measured = monitor.measure(network, batch.epoch, last, run.show_measuring)
    _end_epoch(run, settings, batch.epoch, measured)
    if early or last:
        pictures = take_pictures(batch, monitor, network, sets.train)
        run.try_to_write("the report's images", lambda: pictures.save(run.folder))
    if early and not last:
        run.write_report()


def _end_epoch(run: Session, settings: Settings, epoch: int, measured: Measured) -> None:
    """Log the epoch's mean loss and std, its metrics and its verdict, and print a summary line."""
    sums, before = run.progress.take(), run.progress.verdict
    loss, std = run.take_loss(), sums["std"] / sums["logged"]
    images_per_norm = settings.batch_size // settings.grad_accum  # batch size of BN in the heads
    if not settings.sync_bn:
        images_per_norm //= world_size()
    floor = std_at_collapse(settings.method, images_per_norm)
    judged = verdict(std, floor, measured.values.get("rank_z"), measured.max_rank)
    run.progress.verdict = judged
    run.progress.loss, run.progress.std = loss, std
    run.progress.metrics |= {name: value for name, value in measured.values.items() if value is not None}
    run.log.log(
        "epoch", epoch=epoch, step=run.step, loss=loss, std=std, **measured.values, verdict=judged,
        seconds=run.clock.seconds(),
    )  # fmt: skip
    metrics = "  ".join(in_words(measured.values))
    run.log.print(f"epoch {epoch + 1:3d}  loss {loss:7.4f}  std {std:.2f}  {metrics}  {judged}")
    if judged != "healthy" and judged != before:
        run.log.print(f"[bold]{judged}[/]: {ADVICE[judged]}", markup=True)


def _finish(run: Session, settings: Settings, sets: ImageSets) -> Outcome:
    """List the unreadable images, log the outcome, write the report, and return the outcome."""
    run.finish()
    run.list_unreadable(list(sets.unreadable_files.items()), total=len(sets.train))
    seconds = run.clock.seconds()
    outcome = Outcome(
        run=str(run.folder),
        verdict=run.progress.verdict,
        loss=run.progress.loss,
        std=run.progress.std,
        metrics={**dict.fromkeys(all_metrics()), **run.progress.metrics},
        epochs=round(run.schedule.passes, 3) if run.schedule.changes else settings.epochs,
        steps=run.total_steps,
        seconds=seconds,
        pairs_per_second=run.total_steps * settings.batch_size / seconds,
    )
    if words := " ".join(usefulness(outcome.metrics)).strip():
        run.print(words)
    run.log.log("end", **{name: value for name, value in outcome.flat().items() if name != "run"})
    run.write_report()
    return outcome


def _write_report(folder: Path, warn: Callable[[str], object]) -> None:
    from siam.report.page import write_report  # matplotlib takes a second to import

    write_report(folder, warn)


def _name_batch(loader: ViewLoader, step: int) -> str:
    """Return a step's epoch and the names of its first images, formatted for an error message."""
    epoch, within = divmod(step, loader.steps)
    names = [loader.images.path(int(i)) for i in loader.order.epoch(epoch)[within][:3]]
    return f" (epoch {epoch + 1}; images {', '.join(names)}, ...)"


def _headline(sets: ImageSets, settings: Settings, folder: Path, resumed: bool) -> str:
    """Return a one-line summary of the run: method, dataset, backbone, batch size, epochs and folder."""
    epochs = f"{settings.epochs:g} epoch{'' if settings.epochs == 1 else 's'}"
    return (
        f"{settings.method.name} on {sets.train.name}: {settings.backbone}, "
        f"batches of {settings.batch_size}, {epochs} -> {folder}" + (" (resumed)" if resumed else "")
    )


def _facts(sets: ImageSets, network: nn.Module, run: Session) -> dict[str, Any]:
    """Return the contents of the `start` record in metrics.jsonl."""
    backbone: Any = network.backbone
    return {
        "images": len(sets.train),
        "val_images": 0 if sets.val is None else len(sets.val),
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "features": features_of(backbone),
        "device": str(run.device),
        "precision": "bf16" if run.bf16 else "float32",
    }
