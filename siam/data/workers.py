"""Data workers: processes that prepare batches, and exit when the main process does.

No wait for a batch is unlimited: a worker that dies or does not answer is replaced, and a second loss on the
same batch is an error.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from siam.data.handover import send_tensors
from siam.errors import RunError, SiamError, first_line
from siam.system.main_module import in_environment, start_tracker, without_main_reimport
from siam.system.malloc import keep_freed_memory
from siam.system.resources import raise_file_limit
from siam.system.signals import deferred

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds to wait for a batch before its worker counts as lost; remote shards may take minutes."""

_END = object()


def _print_warning(line: str) -> None:
    print(line, file=sys.stderr)


def batches_of(
    dataset: Dataset[Any],
    keys: Callable[[int], Iterable[Any]],
    workers: int,
    prefetch: int = 2,
    pinned: bool = False,
    warn: Callable[[str], None] = _print_warning,
    patience: float = PATIENCE,
    remedy: str = "use fewer workers if memory is tight",
) -> Iterator[Any]:
    """Yield `dataset[key]` for each key, in order, prepared by worker processes.

    keys: returns the keys that follow the first n. workers: number of processes; 0: prepare batches in this
    process, as also happens where processes cannot be started. prefetch: number of batches that each worker
    prepares in advance. pinned: put batches in pinned memory, for asynchronous copies to a GPU. warn: called
    with a message when workers are replaced. patience: seconds to wait for a batch. remedy: advice for a
    worker that is lost twice on the same batch. Raises RunError then, and any SiamError of the dataset.
    """
    if multiprocessing.current_process().daemon:
        workers = 0  # a worker of a multiprocessing.Pool or of Celery may not start processes
    received, lost_at, unstarted = 0, -1, 0
    while True:
        samples: Iterator[Any] | None = None
        try:
            with without_main_reimport(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This DataLoader will create")  # the user chose the number
                loader = _loader(dataset, keys(received), workers, prefetch, pinned)
                with deferred():  # a worker whose parent ends while it starts prints a traceback
                    samples = iter(loader)
            while (batch := _next_batch(samples, workers, patience)) is not _END:
                if isinstance(batch, SiamError):
                    raise batch
                received += 1
                yield batch
            return
        except (RuntimeError, EOFError, OSError) as error:
            if workers == 0 or not _is_loss(error):
                raise
            unstarted += samples is None
            if unstarted == 2:
                warn(f"data workers cannot be started ({first_line(error)}): reading without them")
                workers = 0
                continue
            cause = _cause(samples, error)
        finally:
            _end(samples, pinned)
        if received == lost_at:
            raise RunError(f"a data worker {cause} twice on the same batch: {remedy}")
        warn(f"a data worker {cause}; restarting the workers")
        lost_at = received


def _loader(
    dataset: Dataset[Any], keys: Iterable[Any], workers: int, prefetch: int, pinned: bool
) -> DataLoader[Any]:
    in_pipes = workers > 0 and raise_file_limit() < 64 * (1 + workers)
    return DataLoader(
        _Answers(dataset),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_identity,
        pin_memory=pinned,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=_start_method(dataset) if workers else None,
        worker_init_fn=partial(_begin, in_pipes) if workers else None,
    )


class _Answers(Dataset[Any]):
    """Returns the errors that users can fix, because torch would add the worker's traceback to them."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except SiamError as error:
            return error
        except MemoryError:
            return RunError("a data worker ran out of memory: use fewer workers or smaller images")


def _next_batch(samples: Iterator[Any], workers: int, patience: float) -> Any:
    """Return the next batch, or _END. Raises TimeoutError if the workers do not answer."""
    if workers == 0:
        return next(samples, _END)
    return _within(patience, lambda: next(samples, _END))


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return `call()`, or raise TimeoutError after some seconds.

    The call runs in a thread, because pipes and sockets of a stopped process block without a limit.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"has not answered for {seconds:.0f} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _is_loss(error: Exception) -> bool:
    """Return True if `error` means that a worker was lost or not started, False if a worker raised it."""
    if str(error).startswith("Caught "):  # torch's wording for exceptions raised in workers
        return False
    return not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)


def _cause(samples: Iterator[Any] | None, error: Exception) -> str:
    """Return how a worker was lost, as in "was killed by SIGKILL"."""
    if samples is None:
        return f"could not be started ({first_line(error)})"
    if not isinstance(error, TimeoutError) and not any(worker.exitcode for worker in _processes(samples)):
        time.sleep(1)  # a worker's pipe closes before its exit code is known
    codes = [worker.exitcode for worker in _processes(samples) if worker.exitcode]
    if codes and codes[0] < 0:
        return f"was killed by {signal.Signals(-codes[0]).name}"
    if codes:
        return f"exited with status {codes[0]}"
    return str(error) if isinstance(error, TimeoutError) else "exited"


def _end(samples: Iterator[Any] | None, pinned: bool) -> None:
    """Kill the workers: Python would wait for stopped ones without a limit when it exits."""
    if pinned:  # torch's thread that pins batches must end first, because it reads what the workers write
        with contextlib.suppress(TimeoutError, RuntimeError):
            _within(10, getattr(samples, "_shutdown_workers", lambda: None))
    for worker in _processes(samples):
        worker.kill()


def _processes(samples: Iterator[Any] | None) -> list[Any]:
    return getattr(samples, "_workers", [])  # torch has no public name for this list


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
    start_tracker()
    with in_environment(PYTHONSAFEPATH="1"):  # a code.py in the current folder must not be imported
        forkserver.ensure_running()


def _begin(in_pipes: bool, number: int) -> None:
    """Set up a new worker. in_pipes: send batches through pipes, because files are scarce."""
    Thread(target=_exit_with_parent, daemon=True).start()
    keep_freed_memory()
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all processes: finish the step
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    send_tensors(in_pipes)


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
