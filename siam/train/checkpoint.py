"""Everything that a run needs to go on as if it had never stopped."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from siam.errors import RunError
from siam.network import Network
from siam.runs import CHECKPOINT, load_checkpoint, load_network, write_atomically


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
    knn_raw_pixels: float | None = None
    knn_random_init: float | None = None
    rank: float | None = None
    verdict: str = "healthy"
    loss: float = 0.0
    std: float = 0.0
    """Of the last whole epoch, with the four above."""
    broken: dict[str, str] = field(default_factory=dict)
    """Images that could not be read, and why."""


def save_checkpoint(
    folder: Path,
    progress: Progress,
    network: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write RUN/checkpoint.pt atomically."""
    contents = {
        "progress": asdict(progress),
        "network": network.state_dict(),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    write_atomically(folder / CHECKPOINT, lambda file: torch.save(contents, file))


def restore(
    folder: Path, network: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Load the checkpoint into the three modules. Raises RunError when it is damaged or of another run."""
    contents: dict[str, Any] = load_checkpoint(folder / CHECKPOINT)
    try:
        network.load_state_dict(contents["network"])
        objective.load_state_dict(contents["objective"])
        optimizer.load_state_dict(contents["optimizer"])
        known = {f.name for f in fields(Progress)}
        return Progress(**{key: value for key, value in contents["progress"].items() if key in known})
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise RunError(f"{folder / CHECKPOINT} does not fit this run: {str(error).splitlines()[0]}") from None


def begin_with(run: str, network: Network) -> str:
    """Give `network` the weights of another run, part by part, and say which parts. Raises RunError.

    The backbone must fit; a head that the run does not have, or has in another shape, stays as initialised.
    """
    weights, own = load_network(run), network.state_dict()
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
    if "slow" in fresh:
        network.update_target(0.0)
    rest = f"; {' and '.join(fresh)} as initialised" if fresh else ""
    return f"beginning with the {', '.join(taken)} of {run}{rest}"
