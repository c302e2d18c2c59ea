"""The training of a run, from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from siam.data.images import ImageSets
from siam.data.loader import Batch, ViewLoader
from siam.data.photometry import denormalize
from siam.data.random import counter_uniform
from siam.data.views import STEP
from siam.errors import RunError, SiamError
from siam.measure.collapse import ADVICE, embedding_std, std_at_collapse, verdict
from siam.network import Network
from siam.objectives import build_objective
from siam.parts.backbone import features_of
from siam.parts.momentum import momentum_at
from siam.processes.agree import (
    AnyRankFlag,
    all_gather_object,
    all_reduce_mean,
    on_rank_zero,
    raise_everywhere,
)
from siam.processes.data_parallel import average_statistics
from siam.processes.gather import all_gather, rank, world_size
from siam.processes.rendezvous import local_device
from siam.report.pictures import Pictures
from siam.runs.bars import reading
from siam.runs.checkpoint import Progress, checkpoints, fit, load_init, load_last, save_checkpoint
from siam.runs.encoder import load_network, save_encoder
from siam.runs.folder import CHECKPOINT, UNREADABLE, save_settings
from siam.runs.logbook import Logbook, NoLogbook, percent
from siam.runs.saving import RunStopped, Saver, StopRequest
from siam.settings.pretraining import Settings
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.files import locked, write_atomically
from siam.train.monitor import Measured, Monitor
from siam.train.optimizer import set_learning_rate
from siam.train.step import Step


@dataclass(frozen=True)
class Outcome:
    """What a run came to; fractions in [0, 1], None without labels."""

    run: str
    verdict: str
    loss: float
    std: float
    """Times sqrt(d)."""
    rank: float | None
    knn: float | None
    pixel_knn: float | None
    untrained_knn: float | None
    epochs: int
    steps: int
    seconds: float
    pairs_per_second: float


def train(sets: ImageSets, settings: Settings, folder: Path, resume: bool, console: Console) -> Outcome:
    """Train a run in `folder` to its end, from its last checkpoint when `resume` and there is one.

    Saved at the end of each epoch, every so many steps or minutes within one, and when asked to stop. Where
    several processes train together, all call this; the first one alone writes. Raises SiamError.
    """
    with ExitStack() as held:
        on_rank_zero(lambda: held.enter_context(locked(folder)) and None)
        console = console if rank() == 0 else Console(quiet=True)
        device = find_device(local_device(settings.device))
        tune_process(device)
        bf16 = uses_bf16(settings.precision, device)
        loader = ViewLoader(sets.train, settings, device, tell=lambda line: _say(console, line))

        torch.manual_seed(settings.seed)
        method = settings.method
        network = Network(method, settings.backbone, settings.views.size, settings.width, settings.stem)
        if settings.init:
            weights = on_rank_zero(lambda: load_network(settings.init))
            _say(console, load_init(settings.init, weights, network))
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        objective = build_objective(method, len(sets.train)).to(device)
        train_on = Step(network, objective, settings, device)
        optimizer = train_on.optimizer
        parts: dict[str, Any] = {"network": network, "objective": objective, "optimizer": optimizer}

        resumed = on_rank_zero(lambda: resume and bool(checkpoints(folder)))
        progress = Progress()
        if resumed:
            saved, complaint = on_rank_zero(lambda: load_last(folder))
            progress = fit(saved, folder, progress, **parts)
            if complaint:
                _say(console, complaint)
        loader.broken.update(progress.broken)
        _say(console, _headline(sets, settings, folder, resumed))
        with reading(console) as bar:
            loader.settle(bar("reading all images"))
            monitor = Monitor(sets, settings, device, bf16, bar)
        on_rank_zero(lambda: save_settings(folder, settings))  # from here on there is a run to go on with

        total = settings.epochs * loader.steps
        step = first = progress.epoch * loader.steps + progress.step
        log = Logbook(folder, total, first, progress.metrics, console) if rank() == 0 else NoLogbook()
        saver, vote = Saver(settings.checkpoint, first, log.say), AnyRankFlag()
        with log, StopRequest() as stop:

            def measuring(done: int, of: int) -> None:
                log.advance(step, [f"measured {done:,} of {of:,} images"])

            if not resumed:
                log.advance(step, ["kNN of raw pixels"])
                progress.pixel_knn = monitor.raw_pixels()
                progress.untrained_knn = monitor.knn(network, measuring)
                log.advance(step, [])
                log.record("start", **_facts(sets, network, device, bf16, progress))
            clock = Clock(progress.seconds, first)
            loss_sum = torch.tensor(progress.loss_sum, device=device)
            not_finite_at = torch.tensor(math.inf, device=device)

            def save(last_chance: bool = False) -> None:
                def write() -> None:
                    progress.metrics, progress.seconds = log.position(), clock.seconds()
                    save_encoder(folder, network.backbone, settings)
                    save_checkpoint(folder, progress, settings.checkpoint.keep, **parts)

                on_rank_zero(lambda: saver.save(step, write, last_chance))
                clock.skip()

            batches = loader.batches(progress.epoch, progress.step)
            for batch in _or_save(batches, save):
                step = batch.epoch * loader.steps + batch.step  # within the run
                lr = set_learning_rate(optimizer, settings.optimizer, step / loader.steps, settings.epochs)
                objective.requires_grad_(batch.epoch > 0)  # prototypes wait for the features, as in SwAV
                chance = counter_uniform(settings.seed, 0, np.array([step]), STEP, rank() + 1)[0, rank()]
                torch.manual_seed(int(chance * 2**53))

                loss, z1 = train_on(batch.views, torch.from_numpy(batch.indices))
                if (step + 1) % method.momentum_every == 0:
                    network.update_target(
                        momentum_at(step / total, method.momentum, method.momentum_schedule)
                    )

                loss_sum += loss
                not_finite_at = torch.where(loss.isfinite(), not_finite_at, not_finite_at.clamp(max=step))
                step, progress.step = step + 1, batch.step + 1
                log.advance(step)
                epoch_ends = progress.step == loader.steps
                stopping, late = vote(stop.asked, saver.by_time())
                save_now = epoch_ends or stopping or late or saver.by_step(step)
                tell = epoch_ends or step % settings.monitor.log_every == 0
                if tell or save_now:
                    loss_now, progress.loss_sum = all_reduce_mean(torch.stack([loss, loss_sum])).tolist()
                    if not (math.isfinite(progress.loss_sum) and _is_finite(network)):
                        log.record("step", epoch=batch.epoch, step=step, loss=math.nan, lr=lr)
                        log.record("diverged", epoch=batch.epoch, step=step, verdict="diverged")
                        on_rank_zero(lambda: _write_report(folder, log))
                        raise raise_everywhere(RunError(_not_finite(not_finite_at, step, loader, folder)))
                if tell:
                    std = float(embedding_std(all_gather(z1)))
                    rate = clock.rate(step, settings.batch_size)
                    progress.std_sum += std
                    progress.logged += 1
                    values = {"loss": loss_now, "std": std, "lr": lr, "pairs_per_second": rate}
                    log.record("step", epoch=batch.epoch, step=step, **values)
                    state = _in_words(loss_now, std, progress.knn, rate)
                    log.advance(step, state)

                if save_now:
                    for broken in all_gather_object(dict(loader.broken)):
                        loader.note(broken)
                    progress.broken = dict(loader.broken)
                    if not settings.sync_bn:
                        average_statistics(network)
                if epoch_ends:
                    progress.loss = progress.loss_sum / loader.steps
                    progress.std = progress.std_sum / progress.logged
                    measured = monitor.measure(network, _knn_is_due(settings, batch.epoch), measuring)
                    log.advance(step, state)
                    _end_epoch(batch.epoch, step, progress, measured, settings, clock, log)
                    loss_sum.zero_()
                    last = progress.epoch == settings.epochs
                    if batch.epoch == 0 or last:
                        pictures = _pictures(batch, monitor, network, sets)
                        on_rank_zero(lambda: _save_pictures(folder, pictures, log))  # noqa: B023
                    if batch.epoch == 0 and not last:
                        on_rank_zero(lambda: _write_report(folder, log))
                if save_now:
                    save(last_chance=stopping or progress.epoch == settings.epochs)
                if stopping and progress.epoch < settings.epochs:
                    raise raise_everywhere(RunStopped(_stopped(step, total, folder)))

            vote.close()
            on_rank_zero(lambda: _list_unreadable(folder, sets, loader, console))
            outcome = _outcome(folder, progress, settings, total, clock)
            log.record("end", **{key: value for key, value in asdict(outcome).items() if key != "run"})
            on_rank_zero(lambda: _write_report(folder, log))
    return outcome


class Clock:
    """Seconds of training, over all the processes of a run, and the rate since it was last asked for."""

    def __init__(self, before: float, step: int) -> None:
        self.started = time.monotonic() - before
        self.asked = time.monotonic()
        self.step = step

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def rate(self, step: int, batch_size: int) -> float:
        """Pairs per second."""
        now = time.monotonic()
        rate = (step - self.step) * batch_size / max(now - self.asked, 1e-9)
        self.asked, self.step = now, step
        return rate

    def skip(self) -> None:
        """What was done since the last call is not training."""
        self.asked = time.monotonic()


def _end_epoch(
    epoch: int,
    step: int,
    progress: Progress,
    measured: Measured,
    settings: Settings,
    clock: Clock,
    log: Logbook,
) -> None:
    """Judge the epoch, tell it, and set `progress` to the start of the next."""
    before = progress.verdict
    progress.rank = measured.rank
    progress.knn = progress.knn if measured.knn is None else measured.knn
    batch = settings.batch_size if settings.sync_bn else settings.batch_size // world_size()
    floor = std_at_collapse(settings.method, batch)
    progress.verdict = verdict(progress.std, floor, measured.rank_z, measured.most)
    log.record(
        "epoch", epoch=epoch, step=step, loss=progress.loss, std=progress.std, rank=measured.rank,
        rank_z=measured.rank_z, knn=measured.knn, verdict=progress.verdict, seconds=clock.seconds(),
    )  # fmt: skip
    log.say(
        f"epoch {epoch + 1:3d}  loss {progress.loss:7.4f}  std {progress.std:.2f}  "
        f"rank {measured.rank:5.1f}  kNN {percent(measured.knn)}  {progress.verdict}"
    )
    if progress.verdict != "healthy" and progress.verdict != before:
        log.say(f"[bold]{progress.verdict}[/]: {ADVICE[progress.verdict]}")
    progress.epoch, progress.step = epoch + 1, 0
    progress.loss_sum, progress.std_sum, progress.logged = 0.0, 0.0, 0
    clock.skip()


def _is_finite(network: Network) -> bool:
    """A finite loss may still have had an infinite gradient: such weights must not reach the checkpoint."""
    norms = torch._foreach_norm([p.detach() for p in network.parameters()])
    return bool(torch.stack(norms).isfinite().all())


def _knn_is_due(settings: Settings, epoch: int) -> bool:
    every = settings.monitor.knn_every
    return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == settings.epochs)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _or_save(batches: Iterator[Batch], save: Callable[[], None]) -> Iterator[Batch]:
    """The batches; when there can be no more of them, what was learnt so far is saved before the error."""
    try:
        yield from batches
    except SiamError:
        if world_size() == 1:  # the others are in the middle of a step
            save()
        raise


def _headline(sets: ImageSets, settings: Settings, folder: Path, resumed: bool) -> str:
    """What was asked for, as it was understood."""
    train, val = sets.train, sets.val
    more = [f"{len(val):,} more to validate"] if val is not None else []
    more += [f"{len(train.classes)} classes"] if train.labels is not None else []
    images = f"{len(train):,} images" + (f" ({', '.join(more)})" if more else "")
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}"
    return (
        f"{settings.method.name} on {train.name}: {images}, {settings.backbone}, "
        f"batches of {settings.batch_size}, {epochs} -> {folder}"
        + (" (resumed)" if resumed else "")
        + (f"\n{sets.left_out}" if sets.left_out else "")
    )


def _in_words(loss: float, std: float, knn: float | None, rate: float) -> list[str]:
    """The state of a run beside its bar, the most telling first."""
    known = [] if knn is None else [f"kNN {percent(knn)}"]
    return [f"loss {loss:.3f}", f"std {std:.2f}", *known, f"{rate:.0f} pairs/s"]


def _not_finite(first: Tensor, by: int, loader: ViewLoader, folder: Path) -> str:
    """What to say. first: the step from which on this process's loss was not finite, if it was. by: now."""
    at = min(map(float, all_gather_object(first)))
    where = f"by step {by}: the weights are not"
    if math.isfinite(at):
        epoch, step = divmod(int(at), loader.steps)
        names = [loader.images.path(int(i)) for i in loader.order.epoch(epoch)[step][:3]]
        where = f"at step {int(at) + 1} (epoch {epoch + 1}), with the batch of {', '.join(names)} ..."
    kept = "the last good checkpoint is kept" if (folder / CHECKPOINT).exists() else "nothing was saved yet"
    return f"the loss is not finite {where}; {kept}. Lower optimizer.lr, or set precision float32."


def _stopped(step: int, total: int, folder: Path) -> str:
    return f"stopped as asked after step {step} of {total}, which is saved in {folder}: go on with --resume"


def _facts(
    sets: ImageSets, network: Network, device: torch.device, bf16: bool, progress: Progress
) -> dict[str, Any]:
    return {
        "images": len(sets.train),
        "val_images": 0 if sets.val is None else len(sets.val),
        "parameters": sum(p.numel() for p in network.backbone.parameters()),
        "features": features_of(network.backbone),
        "device": str(device),
        "precision": "bf16" if bf16 else "float32",
        "pixel_knn": progress.pixel_knn,
        "untrained_knn": progress.untrained_knn,
    }


def _pictures(batch: Batch, monitor: Monitor, network: Network, sets: ImageSets) -> Pictures:
    """View pairs of this batch as the network saw them, and some images with their nearest neighbours."""
    pairs = torch.stack(batch.views[:2], dim=1)[:24].flatten(0, 1)
    chosen, nearest = monitor.neighbours(network, queries=8, count=8)

    def name(position: int) -> str:
        index = int(monitor.bank_indices[position])
        file = sets.train.path(index).rpartition("/")[2]
        return file if sets.train.labels is None else f"{sets.train.classes[sets.train.labels[index]]}/{file}"

    return Pictures(
        pairs=_pixels(denormalize(pairs) * 255).reshape(-1, 2, *pairs.shape[2:], 3),
        queries=_pixels(monitor.views(chosen)),
        neighbours=_pixels(monitor.views(nearest.ravel())).reshape(*nearest.shape, *pairs.shape[2:], 3),
        query_names=[name(i) for i in chosen],
        neighbour_names=[[name(i) for i in row] for row in nearest],
    )


def _write_report(folder: Path, log: Logbook) -> None:
    from siam.report.page import write_report  # which draws: what it needs for that takes a second to load

    try:
        write_report(folder)
    except OSError as error:  # the run goes on: saving says whether the disk is full
        log.say(f"the report cannot be written: {error.strerror}")


def _save_pictures(folder: Path, pictures: Pictures, log: Logbook) -> None:
    try:
        pictures.save(folder)
    except OSError as error:
        log.say(f"the pictures for the report cannot be written: {error.strerror}")


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    """(N, 3, S, S) in [0, 255] -> uint8 (N, S, S, 3)."""
    return x.clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def _outcome(folder: Path, progress: Progress, settings: Settings, steps: int, clock: Clock) -> Outcome:
    seconds = clock.seconds()
    return Outcome(
        run=str(folder),
        verdict=progress.verdict,
        loss=progress.loss,
        std=progress.std,
        rank=progress.rank,
        knn=progress.knn,
        pixel_knn=progress.pixel_knn,
        untrained_knn=progress.untrained_knn,
        epochs=settings.epochs,
        steps=steps,
        seconds=seconds,
        pairs_per_second=steps * settings.batch_size / seconds,
    )


def _list_unreadable(folder: Path, sets: ImageSets, loader: ViewLoader, console: Console) -> None:
    """Write unreadable.txt: files of the set and images that could not be read; and say how many images."""
    broken = [*sorted(sets.lost.items()), *sorted(loader.broken.items())]
    if broken:
        lines = "".join(f"{path}\t{reason}\n" for path, reason in broken)
        write_atomically(
            folder / UNREADABLE, lambda file: file.write(lines.encode("utf-8", "surrogateescape"))
        )
    if loader.broken:
        _say(
            console,
            f"{len(loader.broken)} of {len(loader.images)} images could not be read and were replaced: "
            f"{folder / UNREADABLE} lists them",
        )
