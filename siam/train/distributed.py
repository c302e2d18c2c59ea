"""Several processes that train one run: how they find each other, and how they agree.

torchrun starts them on any number of machines, and restarts them; launch.py does so on this one, for a user
who merely has several GPUs. Either way RANK, WORLD_SIZE and their like stand in the environment.
"""

import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from siam.errors import RunError, SiamError
from siam.parts.gather import rank, world_size
from siam.parts.synced_batch_norm import synchronise

T = TypeVar("T")


class Lost(RunError):
    """The other processes of a run do not answer."""

    exit_status = 75  # EX_TEMPFAIL: a run to resume


def started_together() -> bool:
    """Whether torchrun or `launch` started this process among others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Whether torchrun or SLURM started this process again after a failure: there may be a run to resume."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) for name in counts)


def local_device(name: str) -> str:
    """Each process on a machine takes a GPU of its own."""
    if started_together() and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return name


@contextmanager
def joined(device: str, seconds: float) -> Iterator[None]:
    """Find the other processes and stay together; a process on its own does nothing.

    seconds: after which silence counts as loss. Raises Lost when they are gone.
    """
    if not started_together():
        yield
        return
    on_gpus = device != "cpu" and torch.cuda.is_available()
    backend, timeout = "cpu:gloo,cuda:nccl" if on_gpus else "gloo", timedelta(seconds=seconds)
    try:
        store, rank, processes = next(rendezvous("env://", timeout=timeout))
        fresh = PrefixStore(_meet(store, rank, processes, timeout), store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=processes, timeout=timeout)
        yield
    except SiamError:
        raise
    except (dist.DistError, RuntimeError, ConnectionError) as error:
        if not isinstance(error, (dist.DistError, ConnectionError)) and "gloo" not in str(error):
            raise
        raise Lost(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} has lost the others "
            f"({_reason(error)}); go on from the last checkpoint with --resume auto"
        ) from None
    else:
        dist.destroy_process_group()


def _meet(store: Store, rank: int, processes: int, timeout: timedelta) -> str:
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


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; a SiamError that it raises is raised in all."""
    if world_size() == 1:
        return make()
    made: list[Any] = [None]
    if rank() == 0:
        try:
            made = [make()]
        except SiamError as error:
            made = [error]
    dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    if isinstance(made[0], SiamError):
        raise alike(made[0])
    result: T = made[0]
    return result


def alike(error: SiamError) -> SiamError:
    """`error`, marked as raised in all processes: the first one tells it."""
    error.alike = True
    return error


def from_all(value: T) -> list[T]:
    """What each process has, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def parallel(network: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
    """`network` with gradients averaged over the processes as they arise, and its BN synchronised.

    The layers of `network` itself are replaced, their parameters and names stay.
    """
    if world_size() == 1:
        return network
    if sync_bn:
        synchronise(network, device)
    # Statistics are the same in all, or their own business: there is nothing to broadcast.
    new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
    options: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


def average(tensors: list[Tensor]) -> None:
    """Let each tensor be its mean over the processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def average_gradients(module: nn.Module) -> None:
    """As DistributedDataParallel does, for a module that it does not wrap."""
    average([p.grad for p in module.parameters() if p.grad is not None])


def average_statistics(network: nn.Module) -> None:
    """Make the BN statistics of all processes one, where they were not synchronised."""
    average([buffer for buffer in network.buffers() if buffer.is_floating_point()])


def mean(x: Tensor) -> Tensor:
    """The mean over the processes."""
    if world_size() > 1:
        dist.all_reduce(x := x.detach().clone())
    return x / world_size()


def join(x: Tensor) -> Tensor:
    """The rows of all processes, each of which may have another number: (n, ...) -> (N, ...). On the CPU."""
    if world_size() == 1:
        return x
    counts = from_all(len(x))
    padded = torch.zeros(max(counts), *x.shape[1:], dtype=x.dtype)
    padded[: len(x)] = x
    shares = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shares, padded)
    return torch.cat([share[:count] for share, count in zip(shares, counts, strict=True)])


class Vote:
    """What one process wants, all do at the same step.

    Each call casts this process's wishes and returns those that anyone cast at the call before, so that
    nobody waits for the network; a process on its own is answered at once.
    """

    def __init__(self) -> None:
        self.cast = torch.zeros(0)
        self.counting: Any = None

    def __call__(self, *wants: bool) -> tuple[bool, ...]:
        if world_size() == 1:
            return wants
        answer = self._count(len(wants))
        news = [want and not known for want, known in zip(wants, answer, strict=True)]
        self.cast = torch.tensor(news, dtype=torch.uint8)
        self.counting = dist.all_reduce(self.cast, dist.ReduceOp.MAX, async_op=True)
        return answer

    def _count(self, wishes: int) -> tuple[bool, ...]:
        if self.counting is None:
            return (False,) * wishes
        self.counting.wait()
        return tuple(map(bool, self.cast))

    def close(self) -> None:
        """Let the last count end."""
        self._count(0)
