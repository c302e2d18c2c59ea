"""Checkpoints: everything that a run needs to resume as if it had never stopped."""

import contextlib
import io
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from siam.errors import RunError
from siam.network import Network
from siam.runs.folder import CHECKPOINT
from siam.runs.tensors import load_checkpoint
from siam.system.files import write_atomically


@dataclass
class Progress:
    """The position of a run. Random draws follow from it, so it and the weights are the whole state."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Training time so far, over all processes that worked on the run."""
    log_bytes: int = 0
    """Length of metrics.jsonl up to this position."""
    loss_sum: float = 0.0
    """Sum of the losses since it was last reset: by pretraining, at the end of an epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of what is logged as a mean, and how many values they hold."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """The latest value of each metric; None without labels."""
    verdict: str = "healthy"
    unreadable: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""

    def add(self, **values: float) -> None:
        """Add values to the running sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Return the running sums and start them again."""
        sums, self.sums = self.sums, {}
        return sums


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_checkpoint(folder: Path, progress: Any, keep: int = 1, **parts: Stateful) -> None:
    """Write RUN/checkpoint.pt atomically: the position of the run (a dataclass) and the state of each part.

    keep: checkpoints to keep; older ones become checkpoint.1.pt, checkpoint.2.pt ... There is a whole
    checkpoint.pt at any instant. Raises OSError.
    """
    contents = {"progress": asdict(progress), **{name: part.state_dict() for name, part in parts.items()}}
    data = io.BytesIO()  # on a full disk torch.save aborts the process; a plain write raises OSError
    torch.save(contents, data)
    write_atomically(
        folder / CHECKPOINT, lambda file: file.write(data.getbuffer()), lambda: _rename(folder, keep - 1)
    )


def _rename(folder: Path, copies: int) -> None:
    """Link the last checkpoint to checkpoint.1.pt, and move older ones up by one, to `copies` at most."""
    for number in range(copies, 0, -1):
        older, newer = _numbered(folder, number), _numbered(folder, number - 1)
        if number > 1 and newer.exists():
            newer.replace(older)
        elif newer.exists():
            beside = older.with_name(older.name + ".writing")
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            try:
                os.link(newer, beside)
            except OSError:  # this file system has no links: for an instant there is only checkpoint.1.pt
                newer.replace(older)
            else:
                beside.replace(older)


def _numbered(folder: Path, number: int) -> Path:
    """Return checkpoint.pt for 0, checkpoint.1.pt for 1, ..."""
    file = folder / CHECKPOINT
    return file.with_name(f"{file.stem}.{number}{file.suffix}") if number else file


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the latest first."""
    pattern = f"{Path(CHECKPOINT).stem}.[0-9]*{Path(CHECKPOINT).suffix}"
    before = sorted(folder.glob(pattern), key=lambda file: int(file.name.split(".")[1]))
    return [file for file in (folder / CHECKPOINT, *before) if file.exists()]


def load_last(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the contents of the last readable checkpoint, and a complaint about later ones ("" if none).

    Raises RunError if none can be read.
    """
    complaints: list[str] = []
    for file in checkpoints(folder):
        try:
            contents = load_checkpoint(file)
        except RunError as error:
            complaints.append(str(error))
            continue
        if complaints:
            complaints.append(f"resuming from {file.name}")
        return contents, "; ".join(complaints)
    raise RunError("; ".join(complaints) or f"there is no checkpoint in {folder}")


def restore(contents: dict[str, Any], folder: Path, **parts: Stateful) -> Progress:
    """Load a checkpoint into the parts that it was saved from, and return the position of the run.

    folder: the run's, for the error. Raises RunError if the checkpoint belongs to another run.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(contents[name])
        return Progress(**contents["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the checkpoint in {folder} does not fit this run: {reason}") from None


def load_init(run: str, weights: dict[str, Tensor], network: Network) -> str:
    """Load the weights of another run into `network`, part by part, and say which parts. Raises RunError.

    The backbone must fit. A head that the run lacks, or has in another shape, keeps its initialization.
    """
    own = network.state_dict()
    taken: list[str] = []
    fresh: list[str] = []
    for part in dict.fromkeys(key.split(".")[0] for key in own):
        keys = [key for key in own if key.startswith(f"{part}.")]
        fits = all(key in weights and weights[key].shape == own[key].shape for key in keys)
        if part == "backbone" and not fits:
            raise RunError(f"the backbone of {run} has a different shape from this run's")
        (taken if fits else fresh).append(part)
        if fits:
            own.update({key: weights[key] for key in keys})
    network.load_state_dict(own)
    if "target_encoder" in fresh:
        network.update_target(0.0)
    rest = f"; {' and '.join(fresh)} newly initialized" if fresh else ""
    return f"initialized from the {', '.join(taken)} of {run}{rest}"
