"""The user's settings, kept separate from the base settings that they override."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from siam.settings.plain import from_dict

S = TypeVar("S")


@dataclass(frozen=True)
class Overrides:
    """The user's settings, nested as in settings.yaml: {"optimizer": {"lr": 0.1}}.

    They are kept separate because the base settings are often known only later, from the recipe, the images
    or the resumed run.
    """

    given: dict[str, Any] = field(default_factory=dict)

    def over(self, base: S) -> S:
        """Return `base` with these settings applied.

        Raises SettingsError if a setting is unknown (suggesting similar names), a value is invalid, or
        settings conflict with each other.
        """
        changed: S = from_dict(self.given, base)
        return changed

    def only(self, *names: str) -> "Overrides":
        """Return a copy with only the named top-level settings."""
        return Overrides({name: value for name, value in self.given.items() if name in names})

    def but(self, **settings: Any) -> "Overrides":
        """Return a copy with the given top-level settings added or replaced."""
        return Overrides({**self.given, **settings})

    def get(self, name: str, default: Any) -> Any:
        """Return the setting with this dotted name, such as method.name, or `default` if it was not given."""
        value: Any = self.given
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value
