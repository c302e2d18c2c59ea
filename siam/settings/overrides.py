"""Settings as a user gives them: some of many, to be applied over whatever base a run starts from."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from siam.settings.plain import from_dict

S = TypeVar("S")


@dataclass(frozen=True)
class Overrides:
    """The settings that a user gave, nested as in settings.yaml: {"optimizer": {"lr": 0.1}}.

    The base they apply to is often known only later: a recipe, the images, or the resumed run decides it.
    """

    given: dict[str, Any] = field(default_factory=dict)

    def over(self, base: S) -> S:
        """Return `base` with the given settings in place of its own.

        Raises SettingsError: a setting that does not exist (with the nearest names), a wrong type, or a
        combination that cannot work.
        """
        changed: S = from_dict(self.given, base)
        return changed

    def only(self, *names: str) -> "Overrides":
        """Keep the top-level settings of these names."""
        return Overrides({name: value for name, value in self.given.items() if name in names})

    def but(self, **settings: Any) -> "Overrides":
        """Add top-level settings, or replace those that were given."""
        return Overrides({**self.given, **settings})

    def get(self, name: str, default: Any) -> Any:
        """Return a setting by its dotted name, such as method.name, or `default` if it was not given."""
        value: Any = self.given
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value
