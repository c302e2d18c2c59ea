"""Values held against their annotations: a settings file is written by hand as often as not."""

import math
import re
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from siam.errors import SettingsError


def check_types(settings: object, group: str = "") -> None:
    """Raises SettingsError, by name, for a field of a dataclass whose value is not what its annotation says.

    group: what stands before the names, as in `network.`.
    """
    kind: Any = type(settings)
    for name, hint in _hints(kind).items():
        value = getattr(settings, name)
        wanted = _type_error(value, hint)
        if wanted:
            raise SettingsError(f"{group}{name} must be {wanted}, got {value!r}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _type_error(value: Any, hint: Any) -> str:
    """What it should be, in words; nothing where it is."""
    if get_origin(hint) is Literal:
        return "" if value in get_args(hint) else " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        ends = get_args(hint)
        fits = isinstance(value, tuple) and len(value) == len(ends)
        return "" if fits and not any(map(_type_error, value, ends)) else f"{len(ends)} numbers"
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if number and math.isfinite(value) else "a finite number"
    if hint is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if hint is bool:
        return "" if isinstance(value, bool) else "true or false"
    if hint is str:
        return "" if isinstance(value, str) else "a text"
    return ""


def parse_duration(text: str, name: str) -> float:
    """`90s`, `10m`, `2h` in seconds. Raises SettingsError, which calls the setting by its name."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", text)
    if found is None or float(found[1]) <= 0:
        raise SettingsError(f"{name} must be a time such as 90s, 10m or 2h, got '{text}'")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
