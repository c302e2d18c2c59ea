"""Errors that a user can fix: the command line prints one sentence and exits with status 2."""

import difflib
from collections.abc import Iterable


class SiamError(Exception):
    """An error with a cause outside the program; the message says what is wrong, where, and how to fix it."""

    exit_status = 2
    on_all_ranks = False
    """True if every process of a run raises this error, so that only rank 0 prints it."""


class SettingsError(SiamError):
    """A setting that does not exist, or a combination that cannot work."""


class DataError(SiamError):
    """Images that are missing, too few, or too often unreadable."""


class RunError(SiamError):
    """A run folder that is missing, in use, or does not match the request."""


class Diverged(RunError):
    """A loss or weights that are no longer finite."""


def first_line(error: Exception, limit: int = 100) -> str:
    """Return the first line of an error in at most `limit` characters; its type if it has no message.

    A first line that ends in a colon, as torch's "Error(s) in loading state_dict:", is joined by the second.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    joined = f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return joined[:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' with the most similar known names, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
