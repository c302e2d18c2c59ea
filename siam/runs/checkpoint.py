"""Everything that a run needs to go on as if it had never stopped."""

import contextlib
import io
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from siam.errors import RunError
from siam.network import Network
from siam.runs.folder import CHECKPOINT
from siam.runs.tensors import load_checkpoint
from siam.system.files import write_atomically

P = TypeVar("P", bound=Any)


@dataclass
class Progress:
    """Where a run stands. Chance follows from the position, so this and the weights are the whole state."""

    epoch: int = 0
    step: int = 0
    """Within the epoch."""
    seconds: float = 0.0
    """Spent so far, over all its processes."""
    metrics: int = 0
    """Bytes of metrics.jsonl that belong to this position."""
    loss_sum: float = 0.0
    """Over this epoch's steps."""
    std_sum: float = 0.0
    """Over this epoch's logged steps."""
    logged: int = 0
    knn: float | None = None
    pixel_knn: float | None = None
    untrained_knn: float | None = None
    rank: float | None = None
    verdict: str = "healthy"
    loss: float = 0.0
    std: float = 0.0
    """Of the last whole epoch, with the four above."""
    broken: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_checkpoint(folder: Path, progress: Any, keep: int = 1, **parts: Stateful) -> None:
    """Write RUN/checkpoint.pt atomically: where the run stands (a dataclass), and the state of each part.

    keep: how many checkpoints to have afterwards: the ones before become checkpoint.1.pt, checkpoint.2.pt ...
    At every instant there is a whole checkpoint.pt. Raises OSError.
    """
    contents = {"progress": asdict(progress), **{name: part.state_dict() for name, part in parts.items()}}
    data = io.BytesIO()  # torch.save ends the process where the disk is full, a plain write raises OSError
    torch.save(contents, data)
    write_atomically(
        folder / CHECKPOINT, lambda file: file.write(data.getbuffer()), lambda: _rename(folder, keep - 1)
    )


def _rename(folder: Path, copies: int) -> None:
    """Give the last checkpoint a second name, and those before it the next one, up to `copies`."""
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
            except OSError:  # no links on this file system: for an instant there is only checkpoint.1.pt
                newer.replace(older)
            else:
                beside.replace(older)


def _numbered(folder: Path, number: int) -> Path:
    """checkpoint.pt, checkpoint.1.pt, ..."""
    file = folder / CHECKPOINT
    return file.with_name(f"{file.stem}.{number}{file.suffix}") if number else file


def checkpoints(folder: Path) -> list[Path]:
    """Those of a run, the last one first."""
    pattern = f"{Path(CHECKPOINT).stem}.[0-9]*{Path(CHECKPOINT).suffix}"
    before = sorted(folder.glob(pattern), key=lambda file: int(file.name.split(".")[1]))
    return [file for file in (folder / CHECKPOINT, *before) if file.exists()]


def load_last(folder: Path) -> tuple[dict[str, Any], str]:
    """Contents of the last checkpoint that can be read, and what was wrong with later ones ("" if nothing).

    Raises RunError when none can be read.
    """
    complaints: list[str] = []
    for file in checkpoints(folder):
        try:
            contents = load_checkpoint(file)
        except RunError as error:
            complaints.append(str(error))
            continue
        if complaints:
            complaints.append(f"going on from {file.name}")
        return contents, "; ".join(complaints)
    raise RunError("; ".join(complaints) or f"there is no checkpoint in {folder}")


def fit(contents: dict[str, Any], where: Path, start: P, **parts: Stateful) -> P:
    """Put a checkpoint into the parts that it was saved from, and say where the run stands.

    start: where a run begins, for what the checkpoint does not say. where: its folder, for the error. Raises
    RunError when it is of another run.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(contents[name])
        known = {f.name for f in fields(start)}
        return replace(start, **{key: value for key, value in contents["progress"].items() if key in known})
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the checkpoint in {where} does not fit this run: {reason}") from None


def restore(folder: Path, start: P, **parts: Stateful) -> P:
    """`fit` with the last checkpoint of a run. Raises RunError when it is damaged or of another run."""
    contents, _ = load_last(folder)
    return fit(contents, folder, start, **parts)


def load_init(run: str, weights: dict[str, Tensor], network: Network) -> str:
    """Give `network` the weights of another run, part by part, and say which parts. Raises RunError.

    The backbone must fit; a head that the run does not have, or has in another shape, stays as initialised.
    """
    own = network.state_dict()
    taken: list[str] = []
    fresh: list[str] = []
    for part in dict.fromkeys(key.split(".")[0] for key in own):
        keys = [key for key in own if key.startswith(f"{part}.")]
        fits = all(key in weights and weights[key].shape == own[key].shape for key in keys)
        if part == "backbone" and not fits:
            raise RunError(f"the backbone of {run} has another shape than the one asked for")
        (taken if fits else fresh).append(part)
        if fits:
            own.update({key: weights[key] for key in keys})
    network.load_state_dict(own)
    if "target_encoder" in fresh:
        network.update_target(0.0)
    rest = f"; {' and '.join(fresh)} as initialised" if fresh else ""
    return f"beginning with the {', '.join(taken)} of {run}{rest}"
