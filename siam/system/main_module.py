"""Start processes without importing the user's main module."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main_reimport() -> Iterator[None]:
    """Prevent processes started in this block from importing the user's main module.

    By default, they import it so that objects defined in it can be unpickled, which
    this package does not need. A notebook has no main module to import, and a script
    without an `if __name__ == "__main__"` guard would start training again in every
    worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
