"""The functions that people call from Python: train, load, embed."""

from pathlib import Path
from typing import Any

from siam.convert.vectors import embed
from siam.runs.encoder import load
from siam.settings.plain import from_dict
from siam.settings.pretraining import Settings
from siam.train.pretrain import Outcome
from siam.train.start import Resume, start

__all__ = ["embed", "load", "pretrain"]


def pretrain(
    data: str | Path | None = None,
    *,
    method: str | dict[str, Any] = "simsiam",
    out: str | Path | None = None,
    recipe: str | None = None,
    resume: Resume = False,
    **settings: Any,
) -> Outcome:
    """Train an encoder on images without labels; `siam pretrain` in Python.

    data: a folder, list file, .tar, .npy, .npz, or the name of a torchvision set; None is the demo set.
    method: its name, or its name and what it changes: {"name": "byol", "momentum": 0.99}.
    resume: go on with the run in `out`; "auto" begins one where there is none.
    settings: any setting by name, groups as dicts: epochs=100, optimizer={"lr": 0.03}.
    Returns what the run came to; its folder is `.run`. Raises SiamError for what can be mended.
    """
    changes = {} if isinstance(method, str) else method
    name = method if isinstance(method, str) else method.get("name", "simsiam")
    asked = Settings(data="demo" if data is None else str(data))
    return start(
        asked, name, lambda base: from_dict({**settings, "method": changes}, base), recipe, out, resume
    )
