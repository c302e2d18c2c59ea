"""Starting processes that do not import the user's script again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main_reimport() -> Iterator[None]:
    """Start processes that do not run the user's script again.

    Python has a new process import the main module, in case the objects it is sent were defined there. Ours
    never are. A notebook has no main module to import, and a script without `if __name__ == "__main__"` would
    start training again in every worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
