"""Errors that the user can fix; the CLI prints the message and exits with `exit_status`."""

import difflib
from collections.abc import Iterable


class SiamError(Exception):
    """Base class for errors that the user can fix; the message describes the problem and the fix."""

    exit_status = 2
    on_all_ranks = False
    """True if all ranks raise this error, in which case only rank 0 prints it."""


class SettingsError(SiamError):
    """A setting is unknown or invalid, or settings conflict with each other."""


class DataError(SiamError):
    """Images are missing or too few, or too many are unreadable."""


class RunError(SiamError):
    """A run folder or checkpoint is missing, unreadable or in use, or does not match the settings."""


class Diverged(RunError):
    """Training diverged: the loss or the weights are no longer finite."""


def first_line(error: Exception, limit: int = 100) -> str:
    """Return the first line of the error's message, or the error's type if the message is empty.

    A line that ends in a colon, such as torch's "Error(s) in loading state_dict:", is joined with the next
    line. The result is truncated to `limit` characters.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    joined = f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return joined[:limit]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' with the most similar known names, or "" if none are similar."""
    matches = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
