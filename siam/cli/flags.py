"""Types for verb options: positional arguments, switches and settings flags.

A setting's flag is its path, such as `--optimizer.lr`, with two exceptions: DATA is
positional, and `--method` selects the method, whose defaults the `--method.*` flags
override.
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

RunFolder = Annotated[Positional[str], arg(metavar="RUN", help="The run folder.")]
EncoderName = Annotated[
    Positional[str],
    arg(
        metavar="RUN",
        help="Run folder, or weights that exist: timm:NAME, hf-hub:OWNER/NAME, a folder or file of timm's.",
    ),
]
OptionalRun = Annotated[
    Positional[str], arg(metavar="[RUN]", help="The run folder.", help_behavior_hint="(not with --vectors)")
]
OptionalData = Annotated[Positional[str], arg(metavar="[DATA]", help="Images.", help_behavior_hint="")]
VectorsFile = Annotated[
    str | None,
    arg(
        metavar="FILE",
        help="Vectors of the images, in place of RUN: a file that `siam embed` wrote, or another Parquet "
        "file with columns path and embedding.",
    ),
]
CommandLine = NewType("CommandLine", str)
"""Type of an option that is set to the command line as typed; it has no flag."""

Switch = Annotated[bool, FlagCreatePairsOff]
"""Boolean flag without a value, such as `--resume`."""

_METHOD = arg(
    name="method",
    prefix_name=False,
    help=f"Method, which sets the defaults of this group: {', '.join(METHODS)}.",
)
_OBJECTIVE = arg(help=f"Agreement objective: {', '.join(names('siam.objectives'))}.")
_DATA = arg(metavar="[DATA]", help_behavior_hint="(default: demo)")
_DATA_OF_SCALE = arg(
    metavar="[DATA]", help="Training images; by default, the dataset of --scale.", help_behavior_hint=""
)


@dataclass(frozen=True)
class _MethodFlags(Method):
    name: Annotated[str, _METHOD] = SIMSIAM.name
    objective: Annotated[str, _OBJECTIVE] = SIMSIAM.objective

    def __post_init__(self) -> None:
        """Skip validation, which runs after the flags are applied to the settings."""


@dataclass(frozen=True)
class _RowFlags(_MethodFlags):
    name: Suppress[str] = SIMSIAM.name


@dataclass(frozen=True)
class _SettingsFlags(Settings):
    data: Annotated[Positional[str], _DATA] = ""
    method: _MethodFlags = _MethodFlags()

    def __post_init__(self) -> None:
        """Skip validation, which runs after the flags are applied to the settings."""


@dataclass(frozen=True)
class _TableFlags(_SettingsFlags):
    data: Annotated[Positional[str], _DATA_OF_SCALE] = ""
    method: _RowFlags = _RowFlags()
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class _CandidateFlags(_TableFlags):
    data: Annotated[Positional[str], _DATA] = ""


@dataclass(frozen=True)
class _TransferFlags(TransferSettings):
    def __post_init__(self) -> None:
        """Skip validation, which runs after the flags are applied to the settings."""


def require_extra(module: str, extra: str) -> None:
    """Raise SettingsError if the optional dependency `module` is not installed."""
    if find_spec(module) is None:
        raise SettingsError(f"{module} is not installed: pip install 'siam[{extra}]'")


def given_set(run: str, data: str, vectors: str | None) -> tuple[str | None, str | None]:
    """Return RUN and DATA; with a file of vectors, one argument alone is DATA.

    Raises SettingsError if one of them is missing.
    """
    if vectors is not None and not data:
        return None, run or None
    if not data:
        raise SettingsError("RUN and DATA are needed, or --vectors with a file that siam embed wrote")
    return run, data


def _flat(kind: type) -> object:
    return arg(name="", constructor=kind)


PretrainOverrides = Annotated[Overrides, _flat(_SettingsFlags), FlagConversionOff]
"""DATA, --method and all other pretraining settings."""

TableOverrides = Annotated[Overrides, _flat(_TableFlags), FlagConversionOff]
CandidateOverrides = Annotated[Overrides, _flat(_CandidateFlags), FlagConversionOff]
"""DATA and all pretraining settings except --method and --seed (set by the table)."""

TransferOverrides = Annotated[Overrides, _flat(_TransferFlags), FlagConversionOff]
"""All transfer settings."""
