"""Convert settings to and from the nested dicts stored in settings.yaml."""

import reprlib
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from siam.errors import SettingsError
from siam.settings.pretraining import Settings
from siam.settings.renamed import suggestion


def to_dict(settings: Any) -> dict[str, Any]:
    """Convert settings to nested dicts of plain values; tuples become lists."""
    return {key: _plain(value) for key, value in asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_dict(plain: dict[str, Any], base: Any = None, path: str = "") -> Any:
    """Return `base` (default settings if None) with the values in `plain` applied.

    path: prefix of the setting names in error messages, such as `method.`. Raises SettingsError.
    """
    base = Settings() if base is None else base
    known = {f.name for f in fields(base)}
    changes: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in known:
            name = str(key)[:100]
            raise SettingsError(f"unknown setting '{path}{name}'{suggestion(name, base, path)}")
        current = getattr(base, key)
        if is_dataclass(current):
            if not isinstance(value, dict):
                raise SettingsError(
                    f"setting '{path}{key}' must be a group of settings, got {reprlib.repr(value)}"
                )
            value = from_dict(value, current, f"{path}{key}.")
        changes[key] = tuple(value) if isinstance(value, list) else value
    return replace(base, **changes)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """List the settings that differ between two groups, such as 'epochs (100 and 5)'."""
    found: list[str] = []
    for f in fields(one):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if is_dataclass(a):
            found += differences(a, b, f"{path}{f.name}.")
        elif a != b:
            found.append(f"{path}{f.name} ({a} and {b})")
    return found
