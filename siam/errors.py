"""Errors that the user can fix. The command line prints the message and exits with `exit_status`."""

import difflib
from collections.abc import Iterable


class SiamError(Exception):
    """An error that is not a bug in siam; its message says what is wrong, where, and how to fix it."""

    exit_status = 2
    on_all_ranks = False
    """True if every process in a run raises this error, so that only rank 0 prints it."""


class SettingsError(SiamError):
    """A setting does not exist, or a combination of settings is impossible."""


class DataError(SiamError):
    """Images are missing or too few, or too many are unreadable."""


class RunError(SiamError):
    """A run folder is missing, in use, or does not match the request."""


class Diverged(RunError):
    """The loss or the weights are no longer finite."""


def first_line(error: Exception, limit: int = 100) -> str:
    """Return the message's first line, cut to `limit` characters, or the error's type if there is no message.

    A first line ending in a colon, such as torch's "Error(s) in loading state_dict:", is joined to the
    next line.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    joined = f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return joined[:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' with the closest known names, or an empty string if none are close."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
