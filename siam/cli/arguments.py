"""A verb's arguments as a dataclass; what cannot be read is one plain sentence."""

import contextlib
import io
import re
from dataclasses import is_dataclass
from typing import Any, TypeVar

from siam.errors import SettingsError

T = TypeVar("T")


def parse(kind: type[T], args: list[str], prog: str, defaults: T | None = None) -> T:
    """A dataclass from the command line, over `defaults`; raises SettingsError, one plain sentence."""
    import tyro

    args = [re.sub(r"(?<![^=])(true|false)$", lambda word: word[0].capitalize(), arg) for arg in args]
    args = ["--views.pipeline" if arg == "--views" else arg for arg in args]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            start = tyro.MISSING_NONPROP if defaults is None else defaults
            parsed, unknown = tyro.cli(kind, prog=prog, args=args, default=start, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SettingsError(_inside_the_box(complaint.getvalue())) from None
    if unknown:
        if unknown[0].startswith("-"):
            raise SettingsError(f"unknown setting '{unknown[0]}'{_nearest(unknown[0], _flags(parsed))}")
        raise SettingsError(f"one argument too many: '{unknown[0]}'")
    return parsed


def _nearest(flag: str, known: list[str]) -> str:
    """Flags of that name in some group, --optimizer.lr for --lr; else the most similar ones."""
    from siam.errors import did_you_mean

    name = flag.lstrip("-").split("=")[0]
    same = [other for other in known if other.split(".")[-1] == name]
    return f"; did you mean {' or '.join(same)}?" if same else did_you_mean(flag, known)


def _flags(group: Any, prefix: str = "--") -> list[str]:
    """Every flag of a nested dataclass."""
    found: list[str] = []
    for name, value in vars(group).items():
        flag = prefix + name.replace("_", "-")
        if is_dataclass(value):
            found += _flags(value, prefix if name in ("settings", "asked") else flag + ".")
        else:
            found.append(flag)
    return found


def _inside_the_box(box: str) -> str:
    """The first message that tyro frames."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    end = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    message = " ".join(lines[:end]) or "the command line cannot be read; see --help"
    message = re.sub(
        r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is not a whole number", message
    )
    return re.sub(r"could not convert string to float: ('.*?')", r"\1 is not a number", message)
