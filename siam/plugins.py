"""Discovery of plugin modules by listing their package.

A file added to such a package is a new verb, source, objective, metric or report section; no other file
changes.
"""

import pkgutil
from importlib import import_module
from types import ModuleType


def names(package: str) -> list[str]:
    """Return the sorted names of a package's modules without importing them, except private ones (_name)."""
    found = pkgutil.iter_modules(import_module(package).__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Import one module of a package."""
    return import_module(f"{package}.{name}")


def modules(package: str) -> list[ModuleType]:
    """Import all modules of a package, sorted by their ORDER (0 if absent), then by name."""
    found = [load(package, name) for name in names(package)]
    return sorted(found, key=lambda module: getattr(module, "ORDER", 0))
