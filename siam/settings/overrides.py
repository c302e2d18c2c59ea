"""Settings given by the user, to be applied over a base."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from siam.settings.plain import from_dict

S = TypeVar("S")


@dataclass(frozen=True)
class Overrides:
    """The settings that a user gave, nested as in settings.yaml: {"optimizer": {"lr": 0.1}}.

    The base is often known only later: it depends on the recipe, the images or the resumed run.
    """

    given: dict[str, Any] = field(default_factory=dict)

    def over(self, base: S) -> S:
        """Return `base` with the given settings in place of its own.

        Raises SettingsError for an unknown setting (with the nearest names), a wrong type, or an impossible
        combination.
        """
        changed: S = from_dict(self.given, base)
        return changed

    def only(self, *names: str) -> "Overrides":
        """Return only the top-level settings of these names."""
        return Overrides({name: value for name, value in self.given.items() if name in names})

    def but(self, **settings: Any) -> "Overrides":
        """Return these overrides with top-level settings added or replaced."""
        return Overrides({**self.given, **settings})

    def get(self, name: str, default: Any) -> Any:
        """Return a setting by its dotted name, such as method.name, or `default` if it was not given."""
        value: Any = self.given
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value
