"""Siam learns image representations without labels, using Siamese networks.

Shape legend: B images in a batch, V views of each image, C channels, H x W pixels, S pixels per side of a
view, D backbone features, d projected dimensions, K prototypes or queue keys, N images in a dataset.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from siam.errors import DataError, RunError, SettingsError, SiamError
from siam.methods import BYOL, METHODS, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method

if TYPE_CHECKING:
    from siam.api import pretrain
    from siam.convert.export import export
    from siam.convert.importer import import_checkpoint as import_
    from siam.convert.inspecting import inspect
    from siam.convert.vectors import embed
    from siam.network import Network
    from siam.protocols.evaluate import evaluate
    from siam.runs.encoder import load

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

_LAZY = {
    "Network": "siam.network.Network",
    "embed": "siam.convert.vectors.embed",
    "evaluate": "siam.protocols.evaluate.evaluate",
    "export": "siam.convert.export.export",
    "import_": "siam.convert.importer.import_checkpoint",
    "inspect": "siam.convert.inspecting.inspect",
    "load": "siam.runs.encoder.load",
    "pretrain": "siam.api.pretrain",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: its module needs torch, which would slow the command line's startup."""
    if name in _LAZY:
        from importlib import import_module

        module, _, attribute = _LAZY[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'siam' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Include the lazily imported names in dir(siam)."""
    return sorted({*globals(), *_LAZY})
