"""Settings that were renamed, for suggestions in error messages."""

import re
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any

from siam.errors import did_you_mean

RENAMED = {
    "accumulate": "grad_accum",
    "recompute": "activation_checkpointing",
    "network": "method",
    "loader.resident": "loader.cache",
    "views.grey_p": "views.grayscale_p",
    "random_init": "untrained",
}
"""Old names of settings and groups -> new names."""


def new_name(name: str, known: Collection[str]) -> str | None:
    """Return the new name of a setting that was renamed or is in a renamed group; None if there is none."""
    for old, new in RENAMED.items():
        renamed = re.sub(rf"^{re.escape(old)}(?=\.|$)", new, name)
        if renamed != name and renamed in known:
            return renamed
    return None


def suggestion(name: str, settings: Any, path: str) -> str:
    """Return '; did you mean ...?' for an unknown setting of a group: its new name, group, or similar names.

    path: prefix of the group's settings, such as `method.`.
    """
    known = [one.name for one in fields(settings)]
    renamed = new_name(path + name, {path + one for one in known})
    if renamed is not None:
        return f"; did you mean {renamed}?"
    groups = [(one, getattr(settings, one)) for one in known]
    inner = [f"{path}{one}.{name}" for one, group in groups if is_dataclass(group) and hasattr(group, name)]
    return f"; did you mean {' or '.join(inner)}?" if inner else did_you_mean(name, known)
