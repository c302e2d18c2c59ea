"""The errors that end a run before its last step: stopped on request, and diverged."""

import math
from pathlib import Path

from siam.errors import Diverged
from siam.runs.folder import CHECKPOINT
from siam.runs.saving import RunStopped


def stopped(step: int, total: int, saved: str, folder: Path) -> RunStopped:
    """Return the error of a run that stops on request. saved: what is in the folder, such as "saved"."""
    return RunStopped(
        f"stopped on request after step {step} of {total}, {saved} in {folder}: continue with --resume"
    )


def diverged(step: int, at: float, batch: str, lr_setting: str, folder: Path) -> Diverged:
    """Return the error of a run whose loss or weights are not finite.

    at: the step whose loss was the first that is not finite; infinity if it was the weights. batch: describes
    the batch of that step. lr_setting: name of the learning rate.
    """
    problem = f"the weights are no longer finite after step {step}"
    if math.isfinite(at):
        problem = f"the loss is not finite at step {int(at) + 1}{batch}"
    kept = "the last good checkpoint is kept" if (folder / CHECKPOINT).exists() else "nothing was saved"
    return Diverged(f"{problem}; {kept}: lower {lr_setting}, or set precision to float32")
