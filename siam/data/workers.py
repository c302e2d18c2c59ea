"""Data workers: processes that prepare batches, and exit when the main process does."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader, Dataset

from siam.system.main_module import without_main_reimport
from siam.system.malloc import keep_freed_memory


def batches_of(
    dataset: Dataset[Any],
    keys: Iterable[Any],
    workers: int,
    prefetch: int = 2,
    pinned: bool = False,
    begin: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """Start the workers, and return an iterator over `dataset[key]` for each of `keys`.

    Batches are in the order of `keys`. workers: number of processes; 0: load batches in
    this process. prefetch: number of batches that each worker prepares in advance.
    pinned: put batches in pinned memory, for asynchronous copies to a GPU. begin:
    called with the worker's number when a worker starts.
    """
    method = _start_method(dataset) if workers else None
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=pinned,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=method,
        worker_init_fn=partial(_begin, begin) if workers else None,
    )
    with without_main_reimport():
        return iter(loader)


def _start_method(dataset: Dataset[Any]) -> str:
    """Start the fork server and return "forkserver"; return "spawn" on Windows."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    _start_server(type(dataset).__module__)
    return "forkserver"


def _start_server(module: str) -> None:
    """Start the fork server with `module` preloaded; a no-op if it is already running.

    Workers forked from the server start quickly and share the memory of the preloaded
    modules, mainly torch. Forking this process directly would be unsafe because it has
    threads. module: name of the module that defines the dataset and imports everything
    the workers need.
    """
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload([__name__, module])
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # a code.py in the current folder must not be imported
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _begin(begin: Callable[[int], None] | None, number: int) -> None:
    """Set up a new worker, then call `begin` with its number."""
    Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()
    if begin is not None:
        begin(number)


def _exit_with_parent() -> None:
    """Exit when the main process exits, even if it was killed.

    torch's own watchdog watches the parent process. Here, the parent is the fork
    server, which waits for all its workers to exit. Without this thread, the server and
    the workers would outlive a killed main process.
    """
    main = multiprocessing.parent_process()  # the main process, not the fork server
    assert main is not None
    main.join()
    os._exit(1)


def _identity(batch: Any) -> Any:
    return batch
