"""Self-supervised learning of image representations with Siamese networks.

Shape notation: B images per batch, V views per image, C channels, H x W pixels, S pixels per side of a view,
D backbone features, d projection dimensions, K prototypes or queue keys, N images in the dataset.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from siam.errors import DataError, RunError, SettingsError, SiamError
from siam.methods import BYOL, METHODS, MOCO_V2, SIMCLR, SIMSIAM, SWAV, Method

if TYPE_CHECKING:
    from siam.api import pretrain
    from siam.atlas.build import explore
    from siam.atlas.listing import duplicates, outliers
    from siam.atlas.search import search
    from siam.convert.export import export
    from siam.convert.importer import import_checkpoint as import_
    from siam.convert.inspecting import inspect
    from siam.convert.vectors import embed
    from siam.network import Network
    from siam.protocols.compare import compare
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
    "compare",
    "duplicates",
    "embed",
    "evaluate",
    "explore",
    "export",
    "import_",
    "inspect",
    "load",
    "outliers",
    "pretrain",
    "search",
]

_LAZY = {
    "Network": "siam.network.Network",
    "compare": "siam.protocols.compare.compare",
    "duplicates": "siam.atlas.listing.duplicates",
    "embed": "siam.convert.vectors.embed",
    "evaluate": "siam.protocols.evaluate.evaluate",
    "explore": "siam.atlas.build.explore",
    "export": "siam.convert.export.export",
    "import_": "siam.convert.importer.import_checkpoint",
    "inspect": "siam.convert.inspecting.inspect",
    "load": "siam.runs.encoder.load",
    "outliers": "siam.atlas.listing.outliers",
    "pretrain": "siam.api.pretrain",
    "search": "siam.atlas.search.search",
}


def __getattr__(name: str) -> Any:
    """Import `name` on first access, because importing torch would slow down the CLI's startup."""
    if name in _LAZY:
        from importlib import import_module

        module, _, attribute = _LAZY[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'siam' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Include the lazily imported names in dir(siam)."""
    return sorted({*globals(), *_LAZY})
