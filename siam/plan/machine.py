"""A machine's training speed, which a plan is made for: measured, or described in a file."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from siam.errors import SettingsError
from siam.plan.rules import Row
from siam.settings.pretraining import Precision, Settings

_EXAMPLE = '{"device": "cuda", "gflops": 60000, "images_per_second": 4000}'


@dataclass(frozen=True)
class Speed:
    """The speed of a run."""

    pairs_per_second: float
    reading: float
    """Seconds until all images are read, if they are kept on the device."""
    precision: Precision
    """The faster one, unless the settings name one."""


class Machine(Protocol):
    """A machine that can be asked for its speed."""

    device: str
    """`cpu`, `cuda` or `mps`."""

    def estimate(self, row: Row) -> float:
        """Estimate the speed of a row of the table, in pairs per second."""

    def measure(self, settings: Settings) -> Speed | None:
        """Measure the speed with these settings; None if the machine is not at hand."""


@dataclass
class DescribedMachine:
    """A machine that is not at hand."""

    device: str
    gflops: float
    """Speed of training, in 10^9 floating-point operations per second."""
    images_per_second: float = math.inf
    """Speed of reading, decoding and cropping with all data workers."""

    def estimate(self, row: Row) -> float:
        return min(self.gflops / row.gflops_per_pair, self.images_per_second)

    def measure(self, settings: Settings) -> None:
        return None


def read_machine(file: str | Path) -> DescribedMachine:
    """Read a machine's description from a JSON file. Raises SettingsError."""
    try:
        plain = json.loads(Path(file).read_text())
        machine = DescribedMachine(plain["device"], float(plain["gflops"]), float(plain["images_per_second"]))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{file} does not describe a machine, as for example {_EXAMPLE} does") from None
    if machine.device not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device in {file} must be cpu, cuda or mps, got {machine.device!r}")
    if not (machine.gflops > 0 and machine.images_per_second > 0):
        raise SettingsError(f"gflops and images_per_second in {file} must be above 0")
    return machine
