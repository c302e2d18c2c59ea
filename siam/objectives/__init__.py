"""Objectives: how the agreement of two views becomes a number. One file each, named as in `method.objective`.

A file defines

    WORDS                         how a report puts it: "contrast with a queue"
    build(method, images)         the Objective for a set of `images` images
    check(method, batch_size)     optional: raises SettingsError for settings that it cannot work with

Settings look for the file by listing this folder, so nothing here imports torch before an objective is built.
"""

from typing import TYPE_CHECKING

from siam.plugins import load
from siam.settings.method import Method

if TYPE_CHECKING:
    from siam.parts.objective import Objective


def build_objective(method: Method, images: int = 0) -> "Objective":
    """Return the module that scores p1, p2, z1, z2, each (B, d), for this method.

    images: number of images in the set; only `moving_average` keeps state for each.
    """
    objective: Objective = load(__name__, method.objective).build(method, images)
    return objective


def words(objective: str) -> str:
    """Return an objective's name in words, for the report."""
    return str(load(__name__, objective).WORDS)
