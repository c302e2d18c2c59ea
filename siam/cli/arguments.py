"""Parse command-line arguments into a verb's options, with one-line error messages."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass, make_dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from siam.cli.flags import CommandLine, Switch
from siam.errors import SettingsError, did_you_mean
from siam.settings.overrides import Overrides
from siam.settings.renamed import new_name

T = TypeVar("T")

_JSON = Annotated[Switch, tyro.conf.arg(help="Print the result as one JSON object on stdout.")]


def parse(
    kind: type[T], args: list[str], prog: str, hints: Mapping[str, str] | None = None
) -> tuple[T, bool]:
    """Parse a verb's arguments; return its options, and whether --json was given.

    kind: the verb's options dataclass. Overrides fields are set to the settings given
    in `args`, without defaults, and CommandLine fields to the command as typed. hints:
    flag -> explanation, for flags that the verb deliberately does not have. Raises
    SettingsError.
    """
    extended: Any = make_dataclass(
        kind.__name__, [("json", _JSON, False)], bases=(kind,), frozen=True, kw_only=True
    )
    extended.__doc__ = kind.__doc__
    command, args = shlex.join([*prog.split(), *args]), _normalize(args, kind)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(extended, prog=prog, args=args, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SettingsError(_message_in(complaint.getvalue())) from None
    if unknown:
        raise SettingsError(_complaint(unknown[0], _flags(parsed), hints or {}))
    filled: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if hint is Overrides:
            filled[name] = Overrides(_given(getattr(parsed, name), args))
        elif hint is CommandLine:
            filled[name] = command
    return replace(parsed, **filled), parsed.json


def _normalize(args: list[str], kind: type) -> list[str]:
    """Expand shorthands: true -> True, --views -> --views.pipeline, --resume -> --resume=yes."""
    args = [re.sub(r"(?<![^=])(true|false)$", lambda word: word[0].capitalize(), arg) for arg in args]
    args = [re.sub(r"^--views(?==|$)", "--views.pipeline", arg) for arg in args]
    for name, hint in get_type_hints(kind).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if "yes" in choices:
            args = [
                f"{arg}=yes" if arg == f"--{name}" and after not in choices else arg
                for arg, after in pairwise([*args, ""])
            ]
    return args


def _given(settings: Any, args: list[str]) -> dict[str, Any]:
    """Return the settings given in `args`, as nested dicts.

    Positional settings count as given if they differ from their defaults.
    """
    typed = {arg.partition("=")[0].replace("_", "-") for arg in args if arg.startswith("--")}
    defaults = dict(_leaves(type(settings)()))
    given: dict[str, Any] = {}
    for path, value in _leaves(settings):
        if _flag(path) in typed or value != defaults[path]:
            group = given
            for name in path[:-1]:
                group = group.setdefault(name, {})
            group[path[-1]] = value
    return given


def _flags(options: Any) -> list[str]:
    """Return all flags of a verb; nested settings omit the outermost field's name."""
    found: list[str] = []
    for name, value in vars(options).items():
        found += [_flag(path) for path, _ in _leaves(value)] if is_dataclass(value) else [_flag((name,))]
    return found


def _leaves(settings: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) for every setting in a nested dataclass."""
    for name, value in vars(settings).items():
        if is_dataclass(value):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _flag(path: tuple[str, ...]) -> str:
    """Return a setting's flag, such as --optimizer.lr; method.name becomes --method."""
    name = ".".join(path).rstrip("_")  # for_, because `for` is a keyword
    return "--" + name.replace("_", "-").replace("method.name", "method")


def _complaint(argument: str, known: list[str], hints: Mapping[str, str]) -> str:
    """Return the error message for an unknown argument, with a suggestion if possible."""
    flag = argument.partition("=")[0]
    if not flag.startswith("-"):
        return f"unexpected argument '{argument}'"
    if flag in hints:
        return f"unknown setting '{flag}': {hints[flag]}"
    return f"unknown setting '{flag}'{_suggestion(flag, known)}"


def _suggestion(flag: str, known: list[str]) -> str:
    """Return a suggestion: the flag's new name, its full name (--optimizer.lr for --lr) or similar flags."""
    name = flag.lstrip("-").replace("_", "-")
    renamed = new_name(name.replace("-", "_"), {other.lstrip("-").replace("-", "_") for other in known})
    if renamed is not None:
        return f"; did you mean --{renamed.replace('_', '-')}?"
    same = [other for other in known if re.split(r"[.]|--", other)[-1] == name]
    return f"; did you mean {' or '.join(same)}?" if same else did_you_mean(flag, known)


def _message_in(box: str) -> str:
    """Extract the first message from an error box printed by tyro, and simplify it."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    end = next((i for i, line in enumerate(lines) if line.startswith("─")), len(lines))
    message = " ".join(lines[:end]) or "invalid command line; see --help"
    message = re.sub(
        r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is not a whole number", message
    )
    return re.sub(r"could not convert string to float: ('.*?')", r"\1 is not a number", message)
