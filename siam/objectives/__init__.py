"""Objectives, which score the agreement of two views: one file each, named as in `method.objective`.

A file defines

    WORDS                         its name in the report, such as "contrast with a queue"
    build(method, images)         returns the Objective; images: dataset size
    check(method, batch_size)     optional: raises SettingsError for settings that it does not support

`Method` lists this package to check names, so this module must not import torch.
"""

from typing import TYPE_CHECKING

from siam.plugins import load
from siam.settings.method import Method

if TYPE_CHECKING:
    from siam.parts.objective import Objective


def build_objective(method: Method, images: int = 0) -> "Objective":
    """Build a method's objective, a module that scores p1, p2, z1, z2, each (B, d).

    images: dataset size, used only by `moving_average`, which keeps state for each image.
    """
    objective: Objective = load(__name__, method.objective).build(method, images)
    return objective


def words(objective: str) -> str:
    """Return an objective's descriptive name, for the report."""
    return str(load(__name__, objective).WORDS)
