"""Checkpoints: everything that a run needs to resume exactly."""

import contextlib
import io
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from siam.errors import RunError, first_line
from siam.network import Network
from siam.runs.folder import CHECKPOINT
from siam.runs.tensors import load_checkpoint
from siam.system.files import write_atomically


@dataclass
class Progress:
    """The position of a run. Random draws are functions of it, so with the weights it is the whole state."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Training time so far in seconds, across restarts."""
    log_bytes: int = 0
    """Length of metrics.jsonl up to this position."""
    loss_sum: float = 0.0
    """Sum of the losses since the last reset; pretraining resets it at the end of each epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of values that are logged as means, and their counts."""
    loss: float = 0.0
    """Mean loss of the last epoch."""
    std: float = 0.0
    """Mean std of z/|z| of the last epoch, times sqrt(d)."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """The latest value of each metric; None without labels."""
    verdict: str = "healthy"
    unreadable: dict[str, str] = field(default_factory=dict)
    """Unreadable images: path -> reason."""

    def add(self, **values: float) -> None:
        """Add values to the running sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Return the running sums and reset them."""
        sums, self.sums = self.sums, {}
        return sums


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_checkpoint(folder: Path, progress: Any, keep: int = 1, **parts: Stateful) -> None:
    """Write RUN/checkpoint.pt atomically: the position of the run (a dataclass) and the state of each part.

    keep: number of checkpoints to keep; older ones become checkpoint.1.pt, checkpoint.2.pt ... A complete
    checkpoint.pt exists at every instant on file systems with hard links. Raises OSError.
    """
    contents = {"progress": asdict(progress), **{name: part.state_dict() for name, part in parts.items()}}
    data = io.BytesIO()  # on a full disk torch.save aborts the process; a plain write raises OSError
    torch.save(contents, data)
    write_atomically(
        folder / CHECKPOINT, lambda file: file.write(data.getbuffer()), lambda: _rotate(folder, keep - 1)
    )


def _rotate(folder: Path, copies: int) -> None:
    """Link the last checkpoint to checkpoint.1.pt after moving older ones up by one, `copies` at most."""
    for number in range(copies, 0, -1):
        older, newer = _numbered(folder, number), _numbered(folder, number - 1)
        if number > 1 and newer.exists():
            newer.replace(older)
        elif newer.exists():
            temporary = older.with_name(older.name + ".writing")
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            try:
                os.link(newer, temporary)
            except OSError:  # no hard links on this file system: for an instant only checkpoint.1.pt exists
                newer.replace(older)
            else:
                temporary.replace(older)


def _numbered(folder: Path, number: int) -> Path:
    """Return checkpoint.pt for 0, checkpoint.1.pt for 1, ..."""
    file = folder / CHECKPOINT
    return file.with_name(f"{file.stem}.{number}{file.suffix}") if number else file


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the latest first."""
    pattern = f"{Path(CHECKPOINT).stem}.[0-9]*{Path(CHECKPOINT).suffix}"
    older = sorted(folder.glob(pattern), key=lambda file: int(file.name.split(".")[1]))
    return [file for file in (folder / CHECKPOINT, *older) if file.exists()]


def load_last(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the contents of the last readable checkpoint, and a warning about later ones ("" if none).

    Raises RunError if no checkpoint can be read.
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
    """Load a checkpoint into the parts that it was saved from, and return the position of the run.

    folder: the run folder, named in the error. Raises RunError if the checkpoint belongs to another run.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(contents[name])
        return Progress(**contents["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = first_line(error, 200)
        raise RunError(f"the checkpoint in {folder} does not match this run: {reason}") from None


def load_init(run: str, weights: dict[str, Tensor], network: Network) -> str:
    """Load the weights of another run into `network`, part by part, and return a line that names the parts.

    A head that the run lacks, or has in another shape, keeps its initialization. Raises RunError if the
    backbone differs in shape.
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
                "and views.size, which init sets"
            )
        (loaded if fits else fresh).append(part)
        if fits:
            own.update({key: weights[key] for key in keys})
    network.load_state_dict(own)
    if "target_encoder" in fresh:
        network.update_target(0.0)
    rest = f"; {' and '.join(fresh)} newly initialized" if fresh else ""
    return f"initialized from the {', '.join(loaded)} of {run}{rest}"
