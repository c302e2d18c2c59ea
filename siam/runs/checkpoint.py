"""Save and load checkpoints, which contain everything needed to resume a run exactly."""

import contextlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from siam.errors import RunError, first_line
from siam.network import Network
from siam.runs.folder import CHECKPOINT
from siam.runs.tensors import load_checkpoint, torch_file
from siam.settings.checks import require_types
from siam.system.files import temporary_name, write_atomically


@dataclass
class Progress:
    """Training progress. Random draws depend only on the seed and the step, so RNG states are not saved."""

    step: int = 0
    """Optimizer steps completed."""
    seconds: float = 0.0
    """Total training time across restarts, in seconds."""
    log_bytes: int = 0
    """Size of metrics.jsonl at the last save, in bytes."""
    loss_sum: float = 0.0
    """Sum of the losses since the last reset; pretraining resets it at the end of each epoch."""
    loss_steps: int = 0
    """Number of steps in that sum."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums and counts of the values whose means are logged."""
    loss: float = 0.0
    """Mean loss over the last epoch."""
    std: float = 0.0
    """Mean std of z/|z| over the last epoch, times sqrt(d)."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Latest value of each metric; None if the metric needs labels and the dataset has none."""
    verdict: str = "healthy"
    unreadable: dict[str, str] = field(default_factory=dict)
    """Unreadable images: path -> reason."""
    job: dict[str, dict[str, object]] = field(default_factory=dict)
    """Images, settings and machine of the run, as in `siam.runs.job.Job`."""
    schedule: list[tuple[int, float, int]] = field(default_factory=list)
    """Changes of the run's length: `Schedule.changes`."""
    threads: int = 0
    """Number of CPU threads in use; 0: as at the start."""
    deadline: float = 0.0
    """Training time after which the run promised to end, in seconds; 0: no promise."""

    unmeasured: bool = False
    """Whether the run was stopped before the measurement that follows this step."""

    def add(self, **values: float) -> None:
        """Add each value to its running sum."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Return the running sums and reset them."""
        sums, self.sums = self.sums, {}
        return sums


class Stateful(Protocol):
    """An object with a state dict, such as a module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_checkpoint(folder: Path, progress: Any, keep: int = 1, **parts: Stateful) -> None:
    """Atomically write training progress (a dataclass) and each part's state dict to `folder`/checkpoint.pt.

    keep: number of checkpoints to keep; older ones become checkpoint.1.pt, checkpoint.2.pt, ... On file
    systems with hard links, a complete checkpoint.pt exists at all times. Raises OSError.
    """
    contents = {"progress": asdict(progress), **{name: part.state_dict() for name, part in parts.items()}}
    write_atomically(folder / CHECKPOINT, torch_file(contents), lambda: _rotate(folder, keep - 1))


def _rotate(folder: Path, copies: int) -> None:
    """Renumber older checkpoints, keeping at most `copies`, and link checkpoint.pt as checkpoint.1.pt."""
    for number in range(copies, 0, -1):
        older, newer = _numbered(folder, number), _numbered(folder, number - 1)
        if number > 1 and newer.exists():
            newer.replace(older)
        elif newer.exists():
            temporary = temporary_name(folder)
            try:
                os.link(newer, temporary)
                temporary.replace(older)
            except OSError:  # no hard links on this file system: checkpoint.pt is briefly missing
                with contextlib.suppress(OSError):
                    temporary.unlink()
                newer.replace(older)


def _numbered(folder: Path, number: int) -> Path:
    """Return the path of a checkpoint: 0 is checkpoint.pt, 1 is checkpoint.1.pt, and so on."""
    file = folder / CHECKPOINT
    return file.with_name(f"{file.stem}.{number}{file.suffix}") if number else file


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, latest first."""
    pattern = f"{Path(CHECKPOINT).stem}.[0-9]*{Path(CHECKPOINT).suffix}"
    older = sorted(folder.glob(pattern), key=lambda file: int(file.name.split(".")[1]))
    return [file for file in (folder / CHECKPOINT, *older) if file.exists()]


def load_last(folder: Path) -> tuple[dict[str, Any], str]:
    """Load the latest readable checkpoint; return its contents and a warning about newer, unreadable ones.

    The warning is "" if the latest checkpoint is readable. Raises RunError if no checkpoint can be read.
    """
    warnings: list[str] = []
    for file in checkpoints(folder):
        try:
            contents = load_checkpoint(file)
        except RunError as error:
            warnings.append(str(error))
            continue
        if warnings:
            warnings.append(f"resuming from {file.name}")
        return contents, "; ".join(warnings)
    raise RunError("; ".join(warnings) or f"there is no checkpoint in {folder}")


def restore(contents: dict[str, Any], folder: Path, **parts: Stateful) -> Progress:
    """Load a checkpoint's state dicts into `parts`, matched by name, and return the training progress.

    folder: the run folder, for the error message. Raises RunError if the checkpoint does not match `parts`.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(contents[name])
        progress = Progress(**contents["progress"])
        require_types(progress)
    except Exception as error:  # a damaged or foreign checkpoint may hold anything under these names
        reason = first_line(error, 200)
        raise RunError(
            f"the checkpoint in {folder} does not match this run ({reason}): choose another --out"
        ) from None
    return progress


def load_init(run: str, weights: dict[str, Tensor], network: Network) -> str:
    """Load another run's weights into `network`, part by part, and return a message naming the loaded parts.

    A head keeps its initialization if it is missing from the other run or differs in shape. Raises RunError
    if the backbones differ in shape.
    """
    own = network.state_dict()
    loaded: list[str] = []
    fresh: list[str] = []
    for part in dict.fromkeys(key.split(".")[0] for key in own):
        keys = [key for key in own if key.startswith(f"{part}.")]
        fits = all(key in weights and weights[key].shape == own[key].shape for key in keys)
        if part == "backbone" and not fits:
            raise RunError(
                f"the backbone of {run} differs in shape from this run's: leave out backbone, width, stem "
                "and views.size, because init sets them"
            )
        (loaded if fits else fresh).append(part)
        if fits:
            own.update({key: weights[key] for key in keys})
    network.load_state_dict(own)
    if "target_encoder" in fresh:
        network.update_target(0.0)
    rest = f"; {' and '.join(fresh)} newly initialized" if fresh else ""
    return f"initialized {', '.join(loaded)} from {run}{rest}"
