"""Connect the processes of a run.

torchrun starts (and restarts) processes on any number of machines; `launch` starts them
on this machine. Both set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from siam.errors import RunError, SiamError, first_line


class ProcessLostError(RunError):
    """The other processes in the run have stopped responding."""

    exit_status = 75  # EX_TEMPFAIL: the run can be resumed


def is_distributed() -> bool:
    """Return True if this process is one of several started by torchrun or `launch`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def was_restarted() -> bool:
    """Return True if torchrun or SLURM restarted this process."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) for name in counts)


def local_device(name: str) -> str:
    """Return the device of this process.

    In a distributed run, auto and cuda become cuda:LOCAL_RANK.
    """
    if is_distributed() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


@contextmanager
def process_group(device: str, seconds: float) -> Iterator[None]:
    """Initialize the process group for the duration of the block.

    A no-op with a single process. seconds: timeout for processes that do not respond.
    Raises ProcessLostError on timeout or if a connection is lost.
    """
    if not is_distributed():
        yield
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    backend, timeout = "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timedelta(seconds=seconds)
    if _all_are_here():
        _use_loopback()
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
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} lost contact with "
            f"the other processes ({_reason(error)}); continue from the last checkpoint with --resume auto"
        ) from None
    else:
        dist.destroy_process_group()


def _all_are_here() -> bool:
    """Return True if all processes of the run are on this machine, as torchrun and `launch` say."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


def _use_loopback() -> None:
    """Make gloo and NCCL connect, and listen, on the loopback interface only.

    gloo would use the address that the host name resolves to, which other machines may reach.
    """
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]  # Linux, macOS
    for library in ("GLOO", "NCCL") if names else ():
        os.environ[f"{library}_SOCKET_IFNAME"] = names[0]


def _agree_on_prefix(store: Store, rank: int, processes: int, timeout: timedelta) -> str:
    """Agree with the other processes on a key prefix that is unique to this start.

    torchrun keeps one store across all restarts, so a restarted process may read
    addresses left in it by killed processes (pytorch#135712), and restart counts differ
    between machines. Each process therefore requests the prefix under its own id, which
    is unique to this start. Rank 0 answers every id it finds, including those of dead
    processes, until all ranks of this start have acknowledged its prefix.
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
            raise ConnectionError(f"process {min(absent)} did not connect")
        for other in filter(lambda other: store.check([f"process {other}"]), absent):
            store.set(f"start of {store.get(f'process {other}').decode()}", mine)
        absent = {other for other in absent if not store.check([f"{mine} heard by {other}"])}
        time.sleep(0.02)
    return mine


def _reason(error: Exception) -> str:
    """Return the first line of a gloo or NCCL error, without its source location."""
    return first_line(error).rpartition("] ")[2]
