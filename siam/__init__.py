"""Siam learns image representations without labels, with Siamese networks.

Shape legend: B images in a batch, V views of each, C channels, H x W pixels, S the side of a view,
D backbone features, d projected dimensions, K prototypes or queue keys, N images in a set.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from siam.errors import DataError, RunError, SettingsError, SiamError
from siam.methods import BYOL, METHODS, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method

if TYPE_CHECKING:
    from siam.api import embed, evaluate, export, import_, inspect, load, pretrain
    from siam.network import Network

__all__ = [
    "BYOL",
    "METHODS",
    "MOCO_V2",
    "SIMCLR",
    "SIMSIAM",
    "SWAV",
    "DataError",
    "Method",
    "Network",
    "RunError",
    "SettingsError",
    "SiamError",
    "embed",
    "evaluate",
    "export",
    "import_",
    "inspect",
    "load",
    "pretrain",
]

_API = ("embed", "evaluate", "export", "import_", "inspect", "load", "pretrain")
_LAZY = {"Network": "siam.network", **dict.fromkeys(_API, "siam.api")}


def __getattr__(name: str) -> Any:
    """Import modules that need torch on first use, so that the command line starts fast."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'siam' has no attribute '{name}'")
