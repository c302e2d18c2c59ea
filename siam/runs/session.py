"""Run sessions, which handle everything in a run except the training steps themselves.

A session locks the run folder, selects the device, restores the last checkpoint, logs, saves checkpoints,
stops on request, and raises Diverged. All ranks call its methods at the same steps; only rank 0 writes files.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from siam.data.random import STEP, counter_uniform
from siam.errors import SiamError
from siam.processes.agree import (
    AnyRankFlag,
    all_gather_object,
    all_reduce_mean,
    on_rank_zero,
    raise_everywhere,
)
from siam.processes.gather import rank, world_size
from siam.processes.rendezvous import local_device
from siam.runs.bars import print_line
from siam.runs.checkpoint import Progress, Stateful, checkpoints, load_last, restore, save_checkpoint
from siam.runs.clock import Clock
from siam.runs.decisions import Decisions
from siam.runs.ends import diverged, stopped
from siam.runs.folder import UNREADABLE, read_records
from siam.runs.logger import Logger, NullLogger
from siam.runs.pace import Pace
from siam.runs.saving import GaveUpWaiting, RunStopped, Saver, StopRequest, attempt
from siam.runs.tensors import is_finite
from siam.runs.threads import Threads
from siam.settings.schedule import Schedule
from siam.settings.session import SessionSettings
from siam.system.device import find_device, tune_process, uses_bf16
from siam.system.files import locked, write_atomically
from siam.system.names import shown

T = TypeVar("T")


class Session:
    """`with Session(folder, settings, console) as run:` locks the run folder and selects the device.

    Call `restore` to load the last checkpoint, `begin` to open the log, and `advance` after each optimizer
    step to set `should_log`, `should_save` and `stopping`. write_report: writes a run folder's report.html,
    and passes warnings to its second argument.
    """

    device: torch.device
    bf16: bool
    log: Logger
    should_log: bool
    should_save: bool
    stopping: bool
    time_is_up: bool

    def __init__(
        self,
        folder: Path,
        settings: SessionSettings,
        console: Console,
        write_report: Callable[[Path, Callable[[str], object]], object] = lambda folder, warn: None,
    ) -> None:
        self.folder, self.settings = folder, settings
        self.console = console if rank() == 0 else Console(quiet=True)
        self.progress, self.resumed, self.moved = Progress(), False, ""
        self.unreadable: dict[str, str] = {}
        self._record_unreadable: Callable[[dict[str, str]], None] = self.unreadable.update
        self._parts: dict[str, Stateful] = {}
        self._write_report = write_report
        self._before_save: list[Callable[[], object]] = []
        self._write_with_checkpoint: Callable[[], object] = lambda: None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            on_rank_zero(lambda: held.enter_context(locked(self.folder)))
            self.device = find_device(local_device(self.settings.device))
            tune_process(self.device)
            self.bf16 = uses_bf16(self.settings.precision, self.device)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    # Before the first step

    def restore(self, **parts: Stateful) -> None:
        """Load the last checkpoint, if any, into `parts`, the modules and optimizers to checkpoint."""
        self._parts = parts
        self.resumed = on_rank_zero(lambda: bool(checkpoints(self.folder)))
        if self.resumed:
            contents, warning = on_rank_zero(lambda: load_last(self.folder))
            self.progress = restore(contents, self.folder, **parts)
            if warning:
                self.print(warning)

    def track_unreadable(self, found: dict[str, str], record: Callable[[dict[str, str]], None]) -> None:
        """Save a loader's unreadable images in checkpoints and share them across ranks.

        found: the loader's dict (path -> reason), to which the checkpoint's entries are added. record: called
        at each save with the entries of each rank; may raise DataError if too many images are unreadable.
        """
        self.unreadable, self._record_unreadable = found, record
        found.update(self.progress.unreadable)

    def begin(
        self,
        schedule: Schedule,
        log_every: int,
        lr_setting: str,
        name_batch: Callable[[int], str] = lambda step: "",
        seconds: float = 0.0,
    ) -> None:
        """Open the log, continuing after the last save, and install the signal handlers.

        log_every: steps between records. lr_setting: name of the learning-rate setting, which the error
        message suggests lowering if the run diverges. name_batch: describes a step's images in that message.
        seconds: training time after which to end, by changing the schedule's length; 0: leave the schedule.
        """
        self.schedule, self.log_every = schedule, log_every
        schedule.changes = self.progress.schedule  # so that checkpoints contain them
        self.progress.deadline = self.progress.deadline or seconds
        self.lr_setting, self.name_batch = lr_setting, name_batch
        self.log = NullLogger()
        decisions = Decisions(read_records(self.folder) if self.resumed else [], self.step)
        if rank() == 0:
            self.log = Logger(self.folder, self.total_steps, self.step, self.progress.log_bytes, self.console)
        self._held.enter_context(self.log)
        if self.moved:
            self.log.log("resume", step=self.step, difference=self.moved)
        self.stop = self._held.enter_context(StopRequest())
        self.saver = Saver(self.settings.checkpoint, self.step, self.log.print)
        self.flags = AnyRankFlag()
        self.clock = Clock(self.progress.seconds, self.step)
        self.pace = Pace(self.progress.deadline, schedule, self.clock, decisions, self.step)
        alone_on_cpu = self.device.type == "cpu" and world_size() == 1
        given = self.settings.threads if alone_on_cpu else torch.get_num_threads()
        threads = Threads(given, self.progress.threads, self.clock, self.log, decisions)
        self.threads = self._held.enter_context(threads)
        self.loss_sum = torch.tensor(self.progress.loss_sum, device=self.device)
        self.diverged_at = torch.tensor(math.inf, device=self.device)

    def before_save(self, *calls: Callable[[], object]) -> None:
        """Register functions to call on all ranks when a save is due, before measuring and saving."""
        self._before_save += calls

    def with_checkpoint(self, write: Callable[[], object]) -> None:
        """Register a function that writes additional files with each checkpoint; called on rank 0 only."""
        self._write_with_checkpoint = write

    # At each step

    @property
    def step(self) -> int:
        """Number of optimizer steps completed."""
        return self.progress.step

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps in the run."""
        return self.schedule.total_steps

    def guard(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield batches until the last step; if the loader raises a SiamError, save a checkpoint first.

        Raises RunStopped if a stop is requested while the loader waits for images.
        """
        if self.step >= self.total_steps:  # a run that was killed after its last step
            return
        try:
            for batch in self.stop.not_waiting_for(batches):
                yield batch
                if self.step == self.total_steps:
                    return
        except SiamError:
            self._save_between_steps()
            raise
        except GaveUpWaiting:
            saved = self._save_between_steps(last_chance=True)
            raise self._stopped("saved" if saved else "the last checkpoint is") from None

    def _save_between_steps(self, last_chance: bool = False) -> bool:
        """Save and return True, except with several ranks: the others are in the middle of a step."""
        if world_size() > 1:
            return False
        # Images found unreadable since the last save are found again, unless the data has returned by then.
        self.progress.loss_sum = float(self.loss_sum)
        self._require_finite()
        self.save(last_chance)
        return True

    def seed_step(self, step: int | None = None) -> None:
        """Seed torch from (seed, step, rank), so that a resumed run draws the same random numbers."""
        step = self.step if step is None else step
        u = counter_uniform(self.settings.seed, 0, np.array([step]), STEP, rank() + 1)[0, rank()]
        torch.manual_seed(int(u * 2**53))

    def advance(self, loss: Tensor, ends_epoch: bool = False) -> None:
        """Count a step and set `should_log`, `should_save` and `stopping`, which are the same on all ranks.

        loss: a scalar on the device, copied to the CPU only when a log or save is due. Raises Diverged if the
        loss or the weights are no longer finite.
        """
        self.loss_sum += loss
        # Record the first step with a non-finite loss on the device, to avoid synchronizing at every step.
        first = self.diverged_at.clamp(max=self.step)
        self.diverged_at = torch.where(loss.isfinite(), self.diverged_at, first)
        self.progress.step += 1
        self.progress.loss_steps += 1
        self.log.progress(self.step)
        self.progress.threads = self.threads.after_step(self.step)
        # With several ranks, these are the flags that any rank raised at the previous step.
        self.stopping, self.time_is_up = self.flags(self.stop.requested, self.saver.time_is_up())
        self.should_save = ends_epoch or self.stopping or self.time_is_up or self.saver.is_due(self.step)
        self.should_log = ends_epoch or self.step % self.log_every == 0
        if self.should_log or self.should_save:
            means = all_reduce_mean(torch.stack([loss, self.loss_sum]))
            self.loss, self.progress.loss_sum = means.tolist()
            self._require_finite()
        if self.should_log and self.progress.deadline and self.step < self.total_steps:
            self.pace.keep(self.step, self.log)
        if self.should_save:
            self.loss_sum.fill_(self.progress.loss_sum)  # as a resumed run starts, on all ranks
            self._share_unreadable()
            for call in self._before_save:
                call()

    def take_loss(self) -> float:
        """Return the mean of the losses since the last call, and reset it."""
        mean = self.progress.loss_sum / self.progress.loss_steps
        self.progress.loss_sum, self.progress.loss_steps = 0.0, 0
        self.loss_sum.zero_()
        return mean

    def rate(self) -> float:
        """Return the images per second since the last call, excluding measurements and saves."""
        return self.clock.rate(self.step, self.settings.batch_size)

    def save(self, last_chance: bool = False) -> None:
        """Write a checkpoint and its additional files. last_chance: retry immediately if writing fails."""
        with self.clock.paused():
            on_rank_zero(lambda: self._save_here(last_chance))

    def _save_here(self, last_chance: bool) -> None:
        def write() -> None:
            self.progress.log_bytes, self.progress.seconds = self.log.position(), self.clock.seconds()
            self._write_with_checkpoint()
            save_checkpoint(self.folder, self.progress, self.settings.checkpoint.keep, **self._parts)

        self.saver.save(self.step, write, last_chance)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Raise RunStopped if the block, a measurement, still runs 5 s after a stop was requested.

        The checkpoint then says that the measurement is to be repeated.
        """
        try:
            with self.clock.paused(), self.stop.waiting():
                yield
        except GaveUpWaiting:
            self.progress.unmeasured = self.step > 0
            if self.step and rank() == 0:  # the other ranks may be anywhere in the measurement
                self._save_here(last_chance=True)
            raise self._stopped("saved" if self.step else "with nothing saved yet") from None
        self.progress.unmeasured = False

    def save_or_stop(self) -> None:
        """Save if a save is due, then raise RunStopped if a stop was requested and steps remain."""
        done = self.step == self.total_steps
        if self.should_save:
            self.save(last_chance=self.stopping or done)
        if (self.stopping or self.time_is_up) and not done:
            self.write_report()
        if self.stopping and not done:
            raise_everywhere(self._stopped("saved"))

    def _stopped(self, saved: str) -> RunStopped:
        return stopped(self.step, self.total_steps, saved, self.folder)

    def finish(self) -> None:
        """Complete the last exchange of flags between ranks, and restore the previous signal handlers."""
        self.flags.close()
        self.stop.release()

    # Console, report and lists

    def print(self, line: str) -> None:
        """Print a line on rank 0."""
        print_line(self.console, line)

    def show_measuring(self, done: int, total: int) -> None:
        """Show the number of images measured so far next to the progress bar."""
        self.log.progress(self.step, [f"measured {done:,} of {total:,} images"])

    def write_report(self) -> None:
        """Write report.html; if that fails, warn and continue."""
        with self.clock.paused():
            self.try_to_write("the report", lambda: self._write_report(self.folder, self.log.print))

    def try_to_write(self, name: str, write: Callable[[], object]) -> None:
        """Call `write` on rank 0; if the disk is full or a file is corrupt, warn and continue."""
        on_rank_zero(lambda: attempt(name, write, self.log.print))

    def list_unreadable(self, files: Sequence[tuple[str, str]], total: int) -> None:
        """Write unreadable.txt, one path and reason per line, and print how many images were replaced.

        files: (path, reason) pairs found when the dataset was opened. total: number of images in the dataset.
        """
        rows = [*sorted(files), *sorted(self.unreadable.items())]
        if rows:
            text = "".join(f"{shown(path)}\t{shown(reason)}\n" for path, reason in rows).encode()
            file = self.folder / UNREADABLE
            self.try_to_write(UNREADABLE, lambda: write_atomically(file, lambda opened: opened.write(text)))
        if self.unreadable:
            bad = f"{len(self.unreadable)} of {total} images"
            self.print(f"{bad} could not be read and were replaced: see {self.folder / UNREADABLE}")

    def _share_unreadable(self) -> None:
        for found in all_gather_object(dict(self.unreadable)):
            self._record_unreadable(found)
        self.progress.unreadable = dict(self.unreadable)

    def _require_finite(self) -> None:
        """Raise Diverged on all ranks if the loss or the weights are no longer finite.

        A finite loss can have an infinite gradient; weights updated by it must not reach the checkpoint.
        """
        modules = [part for part in self._parts.values() if isinstance(part, nn.Module)]
        if math.isfinite(self.progress.loss_sum) and all(map(is_finite, modules)):
            return
        self.log.log("step", step=self.step, loss=math.nan)
        self.log.log("diverged", step=self.step, verdict="diverged")
        self.write_report()
        at = min(all_gather_object(float(self.diverged_at)))
        batch = self.name_batch(int(at)) if math.isfinite(at) else ""
        raise_everywhere(diverged(self.step, at, batch, self.lr_setting, self.folder))
