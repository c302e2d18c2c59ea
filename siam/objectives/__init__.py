"""Objectives, which score the agreement of two views; `method.objective` names a module in this package.

A module defines

    WORDS                         the objective's name in the report, such as "contrast with a queue"
    build(method, images)         returns the Objective; images: number of training images
    check(method, batch_size)     optional; raises SettingsError for unsupported settings

`Method` lists this package to check names, so this module must not import torch.
"""

from typing import TYPE_CHECKING

from siam.plugins import load
from siam.settings.method import Method

if TYPE_CHECKING:
    from siam.parts.objective import Objective


def build_objective(method: Method, images: int = 0) -> "Objective":
    """Build a method's objective, an `nn.Module` called with p1, p2, z1, z2, each (B, d).

    images: number of training images, used only by `moving_average`, which keeps state for each image.
    """
    objective: Objective = load(__name__, method.objective).build(method, images)
    return objective


def words(objective: str) -> str:
    """Return the objective's name in the report, such as "contrast with a queue"."""
    return str(load(__name__, objective).WORDS)
