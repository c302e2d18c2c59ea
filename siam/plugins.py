"""Packages whose modules are found by listing them.

A file added to one is a verb, a source, an objective, a metric or a section of the report; nothing else
has to know of it.
"""

import pkgutil
from importlib import import_module
from types import ModuleType


def names(package: str) -> list[str]:
    """Return the names of a package's modules, sorted, without importing them; _names are left out."""
    found = pkgutil.iter_modules(import_module(package).__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Import one module of a package."""
    return import_module(f"{package}.{name}")


def modules(package: str) -> list[ModuleType]:
    """Import all modules of a package, sorted by their ORDER (0 if absent), then by name."""
    found = [load(package, name) for name in names(package)]
    return sorted(found, key=lambda module: getattr(module, "ORDER", 0))
