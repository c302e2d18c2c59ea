"""How the processes of a run find each other."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from siam.errors import RunError, SiamError


class ProcessLostError(RunError):
    """The other processes of a run do not answer."""

    exit_status = 75  # EX_TEMPFAIL: a run to resume


def is_distributed() -> bool:
    """Whether torchrun or `launch` started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def was_restarted() -> bool:
    """Whether torchrun or SLURM started this process again after a failure: there may be a run to resume."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) for name in counts)


def local_device(name: str) -> str:
    """Each process on a machine takes a GPU of its own."""
    if is_distributed() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


@contextmanager
def process_group(device: str, seconds: float) -> Iterator[None]:
    """Find the other processes and stay together; a process on its own does nothing.

    seconds: after which silence counts as loss. Raises ProcessLostError when they are gone.
    """
    if not is_distributed():
        yield
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    backend, timeout = "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timedelta(seconds=seconds)
    try:
        store, rank, processes = next(rendezvous("env://", timeout=timeout))
        fresh = PrefixStore(_agree_on_prefix(store, rank, processes, timeout), store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=processes, timeout=timeout)
        yield
    except SiamError:
        raise
    except (dist.DistError, RuntimeError, ConnectionError) as error:
        if not isinstance(error, (dist.DistError, ConnectionError)) and "gloo" not in str(error):
            raise
        raise ProcessLostError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} has lost the others "
            f"({_reason(error)}); go on from the last checkpoint with --resume auto"
        ) from None
    else:
        dist.destroy_process_group()


def _agree_on_prefix(store: Store, rank: int, processes: int, timeout: timedelta) -> str:
    """A name for this start of the processes, the same in all: what each writes in `store` goes under it.

    torchrun keeps one store through all restarts, with the addresses of the killed processes in it
    (pytorch#135712), and its count of restarts is not the same on all machines. So each process asks under a
    name that nobody ever had, and the first one answers whoever asks, the dead as well, until all have heard.
    """
    mine = uuid4().hex
    if rank > 0:
        store.set(f"process {rank}", mine)
        start = store.get(f"start of {mine}").decode()
        store.set(f"{start} heard by {rank}", "")
        return start
    absent, until = set(range(1, processes)), time.monotonic() + timeout.total_seconds()
    while absent:
        if time.monotonic() > until:
            raise ConnectionError(f"process {min(absent)} did not come")
        for other in filter(lambda other: store.check([f"process {other}"]), absent):
            store.set(f"start of {store.get(f'process {other}').decode()}", mine)
        absent = {other for other in absent if not store.check([f"{mine} heard by {other}"])}
        time.sleep(0.02)
    return mine


def _reason(error: Exception) -> str:
    """What gloo and NCCL say, without the place in their sources."""
    line = str(error).strip().splitlines()[0]
    return line.rpartition("] ")[2][:120] or type(error).__name__
