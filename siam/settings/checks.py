"""Validation rules as type annotations: `lr: Annotated[float, Above(0)]` accepts only finite numbers above 0.

Settings come from the command line, Python code and hand-edited files, so every value is checked against its
type and rules. Checks that involve several fields are in `__post_init__`.
"""

import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from siam.errors import SettingsError, did_you_mean


@dataclass(frozen=True)
class Rule:
    """A condition on a value, or on each number in a tuple; `words` follows "must" in the error message."""

    words: str
    holds: Callable[[Any], bool]
    each: bool = True
    """False if the condition applies to the tuple as a whole."""


# Rules have capitalized names because they are used in annotations.


def Above(bound: float) -> Rule:
    return Rule(f"be above {bound:g}", lambda value: value > bound)


def Below(bound: float) -> Rule:
    return Rule(f"be below {bound:g}", lambda value: value < bound)


def AtLeast(bound: float, unit: str = "") -> Rule:
    words = f"be at least {bound:g} {unit}".rstrip() if bound or unit else "not be negative"
    return Rule(words, lambda value: value >= bound)


def AtMost(bound: float, unit: str = "") -> Rule:
    return Rule(f"be at most {bound:,} {unit}".rstrip(), lambda value: value <= bound)


def Within(low: float, high: float, unit: str = "") -> Rule:
    return Rule(f"lie in [{low:g}, {high:g}] {unit}".rstrip(), lambda value: low <= value <= high)


def Seed() -> Rule:
    """Accept what torch and numpy take as a seed, if it is not negative."""
    return Rule("be below 2**64", lambda value: value < 2**64)


def Ascending() -> Rule:
    return Rule("be in ascending order", lambda values: list(values) == sorted(values), each=False)


def NotEmpty() -> Rule:
    return Rule("contain at least one value", lambda values: len(values) > 0, each=False)


def Duration(or_empty: bool = False) -> Rule:
    return Rule(
        "be a time such as 90s, 10m, 2h or 1d",
        lambda text: (or_empty and not text) or _seconds(text) is not None,
    )


def check(settings: object, group: str = "") -> None:
    """Check every field of a dataclass against its annotation. Raises SettingsError, naming the field.

    group: prefix for the field names, such as `method.`.
    """
    owner: Any = type(settings)
    for name, hint in _hints(owner).items():
        value = getattr(settings, name)
        kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if isinstance(kind, UnionType):  # X | None
            if value is None:
                continue
            kind = next(one for one in get_args(kind) if one is not NoneType)
        expected = _type_error(value, kind)
        if expected:
            raise SettingsError(
                f"{group}{name} must be {expected}, got {reprlib.repr(value)}{_suggestion(value, kind)}"
            )
        for rule in rules:
            if isinstance(rule, Rule) and not _holds(rule, value):
                raise SettingsError(f"{group}{name} must {rule.words}, got {_format(value)}")


def require_types(record: Any) -> None:
    """Raise TypeError if a field of a dataclass, read from a file, does not have its annotated type."""
    owner: Any = type(record)
    for name, hint in _hints(owner).items():
        value = getattr(record, name)
        if not _has_type(value, hint):
            raise TypeError(f"{name} is {reprlib.repr(value)}")


def _has_type(value: Any, hint: Any) -> bool:
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_has_type(value, kind) for kind in kinds)
    if origin is tuple:
        fits = isinstance(value, (tuple, list)) and len(value) == len(kinds)
        return fits and all(map(_has_type, value, kinds))
    if origin is list:
        return isinstance(value, list) and all(_has_type(one, kinds[0]) for one in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_has_type(key, kinds[0]) and _has_type(one, kinds[1]) for key, one in pairs)
    if hint in (int, float):  # no integer of Siam's is larger, and larger ones cannot be converted to floats
        number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return number or (hint is float and isinstance(value, float))
    return isinstance(value, origin or hint)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _type_error(value: Any, kind: Any) -> str:
    """Return a description of the expected type, or "" if the value has that type."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        count = "" if kinds[-1] is ... else f"{len(kinds)} "
        if isinstance(value, tuple) and not count:
            kinds = kinds[:1] * len(value)
        fits = isinstance(value, tuple) and len(value) == len(kinds)
        return "" if fits and not any(map(_type_error, value, kinds)) else f"{count}numbers"
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if number and math.isfinite(value) else "a finite number"
    if kind is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is str:
        return "" if isinstance(value, str) else "a string"
    return ""


def _suggestion(value: Any, kind: Any) -> str:
    """Return a hint with the allowed strings closest to `value`, or "" if none are close."""
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    return did_you_mean(value, choices) if isinstance(value, str) else ""


def _holds(rule: Rule, value: Any) -> bool:
    return all(map(rule.holds, value)) if rule.each and isinstance(value, tuple) else rule.holds(value)


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{number:g}" for number in value) or "none"
    return reprlib.repr(value)


def parse_duration(text: str, name: str) -> float:
    """Convert a duration (`90s`, `10m`, `2h`) to seconds. Raises SettingsError, naming the setting `name`."""
    seconds = _seconds(text)
    if seconds is None:
        raise SettingsError(f"{name} must {Duration().words}, got {text!r}")
    return seconds


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    if found is None or float(found[1]) <= 0:
        return None
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
