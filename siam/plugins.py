"""Plugin discovery: each module in a plugin package is a plugin.

To add a command, data source, objective, metric or report section, add a file to its package; no other file
needs to change.
"""

import pkgutil
from importlib import import_module
from types import ModuleType


def names(package: str) -> list[str]:
    """Return the sorted names of a package's public modules, without importing the modules."""
    found = pkgutil.iter_modules(import_module(package).__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """Import and return the module `name` of a package."""
    return import_module(f"{package}.{name}")


def modules(package: str) -> list[ModuleType]:
    """Import a package's modules and return them sorted by ORDER (0 if absent), then by name."""
    found = [load(package, name) for name in names(package)]
    return sorted(found, key=lambda module: getattr(module, "ORDER", 0))
