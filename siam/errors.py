"""What a user can mend: each is one plain sentence, and the command ends with exit status 2."""

import difflib
from collections.abc import Iterable


class SiamError(Exception):
    """Something outside the program is wrong; the message says what, where, and the mend."""

    exit_status = 2
    on_all_ranks = False
    """Whether every process of a run raises it: then the first one tells it."""


class SettingsError(SiamError):
    """A setting that does not exist, or a combination that cannot work."""


class DataError(SiamError):
    """Images that are not there, too few of them, or too many that cannot be read."""


class RunError(SiamError):
    """A run folder that is missing, in use, or does not fit what is asked of it."""


class Diverged(RunError):
    """A loss or weights that are no longer finite."""


def first_line(error: Exception) -> str:
    """The first line of an error, short enough for a list."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:100]


def near(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the most similar known names, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
