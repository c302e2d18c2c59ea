"""Types for the options of verbs: positional arguments, switches, and settings as flags.

A setting's flag is its path, `--optimizer.lr`. Two read better otherwise: DATA is positional, and `--method`
names the method that the settings of the group `method` start from.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, NewType

from tyro.conf import FlagConversionOff, FlagCreatePairsOff, Positional, Suppress, arg

from siam.errors import SettingsError
from siam.methods import METHODS, SIMSIAM, Method
from siam.plugins import names
from siam.settings.overrides import Overrides
from siam.settings.pretraining import Settings
from siam.transfer.settings import TransferSettings

RunFolder = Annotated[Positional[str], arg(metavar="RUN", help="The run's folder.")]
CommandLine = NewType("CommandLine", str)
"""The command line as it was typed. No flag sets it."""

Switch = Annotated[bool, FlagCreatePairsOff]
"""`--resume` for true, nothing for false."""

_METHOD = arg(
    name="method", prefix_name=False, help=f"{', '.join(METHODS)}: where the settings of this group start."
)
_OBJECTIVE = arg(help=f"How agreement is scored: {', '.join(names('siam.objectives'))}.")
_DATA = arg(metavar="[DATA]", help_behavior_hint="(default: demo)")
_DATA_OF_SCALE = arg(metavar="[DATA]", help="The set; the scale's own if left out.", help_behavior_hint="")


@dataclass(frozen=True)
class _MethodFlags(Method):
    name: Annotated[str, _METHOD] = SIMSIAM.name
    objective: Annotated[str, _OBJECTIVE] = SIMSIAM.objective

    def __post_init__(self) -> None:
        """Leave the checks to the settings that these flags override."""


@dataclass(frozen=True)
class _RowFlags(_MethodFlags):
    name: Suppress[str] = SIMSIAM.name


@dataclass(frozen=True)
class _SettingsFlags(Settings):
    data: Annotated[Positional[str], _DATA] = ""
    method: _MethodFlags = _MethodFlags()

    def __post_init__(self) -> None:
        """Leave the checks to the settings that these flags override."""


@dataclass(frozen=True)
class _TableFlags(_SettingsFlags):
    data: Annotated[Positional[str], _DATA_OF_SCALE] = ""
    method: _RowFlags = _RowFlags()
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class _TransferFlags(TransferSettings):
    def __post_init__(self) -> None:
        """Leave the checks to the settings that these flags override."""


def require_extra(module: str, extra: str) -> None:
    """Raise SettingsError, which names the extra, if an optional package is not installed."""
    if find_spec(module) is None:
        raise SettingsError(f"{module} is not installed: pip install 'siam[{extra}]'")


def _flat(kind: type) -> object:
    return arg(name="", constructor=kind)


PretrainOverrides = Annotated[Overrides, _flat(_SettingsFlags), FlagConversionOff]
"""DATA, --method and every setting of a pretraining run."""

TableOverrides = Annotated[Overrides, _flat(_TableFlags), FlagConversionOff]
"""The same without --method and --seed, which the rows of a table set."""

TransferOverrides = Annotated[Overrides, _flat(_TransferFlags), FlagConversionOff]
"""Every setting of a transfer."""
