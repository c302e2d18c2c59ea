"""How worker processes are started, and what they make fetched."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import forkserver
from threading import Thread
from typing import Any

from torch.utils.data import DataLoader, Dataset

from siam.system.main_module import without_main_reimport
from siam.system.malloc import keep_freed_memory

_LOADED = ["siam.data.loader", "siam.measure.features"]


def _start_server() -> None:
    """Workers are forked from a server that has loaded the data way once, torch with it: each begins at once
    and shares that memory. Nothing of this process is in them, whose threads would not outlive a fork.

    What it loads is never taken from the current folder: there may be a code.py beside the photographs.
    """
    multiprocessing.set_forkserver_preload(_LOADED)
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def batches_of(
    dataset: Dataset[Any],
    keys: Iterable[Any],
    workers: int,
    prefetch: int = 2,
    pinned: bool = False,
    begin: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """`dataset[key]` for each of `keys`, in their order; the workers start here.

    workers: processes that do it; 0: this one does. prefetch: batches that each is ahead. pinned: in memory
    that a GPU can fetch from. begin: called in each worker first, with its number.
    """
    if workers:
        _start_server()
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pinned,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=partial(_begin, begin) if workers else None,
    )
    with without_main_reimport():
        return iter(loader)


def _begin(begin: Callable[[int], None] | None, number: int) -> None:
    Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()
    if begin is not None:
        begin(number)


def _exit_with_parent() -> None:
    """Wait for the process that takes the batches to be gone, however it ended, and end this worker then.

    torch's own watchdog looks at the parent. That is the server here, which in turn waits for all its workers
    to be gone: without this, both would outlive a user that was killed.
    """
    user = multiprocessing.parent_process()  # as Python has it: the one that asked the server for this worker
    assert user is not None
    user.join()
    os._exit(1)


def _as_it_is(batch: Any) -> Any:
    return batch
