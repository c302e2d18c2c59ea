"""`siam.pretrain`: the Python equivalent of the `siam pretrain` command."""

from pathlib import Path
from typing import Any

from siam.settings.overrides import Overrides
from siam.train.pretrain import Outcome
from siam.train.start import Resume, start


def pretrain(
    data: str | Path | None = None,
    *,
    method: str | dict[str, Any] | None = None,
    out: str | Path | None = None,
    recipe: str | None = None,
    resume: Resume = False,
    duration: str | None = None,
    **settings: Any,
) -> Outcome:
    """Pretrain an encoder on unlabeled images, as `siam pretrain` does.

    data: a folder, list, .tar, .npy or .npz file, or torchvision dataset name; default: the demo dataset.
    method: a name, or a dict of name and settings: {"name": "byol", "momentum": 0.99}; default: simsiam.
    out: the run folder; default: runs/METHOD-DATA.
    recipe: name of the base settings (imagenet, cifar10, imagenette or demo); default: chosen to suit the
    images.
    duration: time to plan the run for (20m, 2h, 1d); default: 30 minutes on a CPU and 2 hours on a GPU,
    unless a recipe, epochs or init are given.
    resume: continue the run in `out`; "auto" starts a new run if there is none in `out`.
    settings: any other settings, by name; groups are dicts: epochs=100, optimizer={"lr": 0.03}.

    Returns the outcome: run folder (`.run`), verdict, loss, std x sqrt(d), and metrics such as effective rank
    and kNN accuracy (a fraction in [0, 1], or None without labels).
    Raises SettingsError (unknown or invalid settings), DataError (no readable images) or RunError (the folder
    is in use or contains another run, or the loss or weights are no longer finite).
    """
    given: dict[str, Any] = dict(settings)
    if data is not None:
        given["data"] = str(data) if isinstance(data, Path) else data
    if method is not None:
        given["method"] = {"name": method} if isinstance(method, str) else method
    return start(Overrides(given), recipe, out, resume, duration=duration)
