"""Start processes without importing the user's main module, and without Python's warnings after a kill."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import ModuleType

_SILENCE = "ignore::UserWarning:multiprocessing.resource_tracker"


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


@contextmanager
def in_environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the processes that are started in this block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_tracker() -> None:
    """Start Python's tracker of semaphores, so that it removes them in silence if this process is killed.

    By default, it prints a warning about leaked objects, to a terminal where nothing else runs any more.
    """
    if hasattr(resource_tracker, "ensure_running"):  # not on Windows
        others = os.environ.get("PYTHONWARNINGS")
        with in_environment(PYTHONWARNINGS=f"{others},{_SILENCE}" if others else _SILENCE):
            resource_tracker.ensure_running()
