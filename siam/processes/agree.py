"""Several processes that train one run: how they find each other, and how they agree.

torchrun starts them on any number of machines, and restarts them; launch.py does so on this one, for a user
who merely has several GPUs. Either way RANK, WORLD_SIZE and their like stand in the environment.
"""

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from siam.errors import SiamError
from siam.processes.gather import rank, world_size

T = TypeVar("T")


def on_rank_zero(make: Callable[[], T]) -> T:
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
        raise_everywhere(made[0])
    result: T = made[0]
    return result


def raise_everywhere(error: SiamError) -> NoReturn:
    """Raise `error`, which every rank raises at this point: rank 0 alone prints it."""
    error.on_all_ranks = True
    raise error


def all_gather_object(value: T) -> list[T]:
    """What each process has, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def average(tensors: list[Tensor]) -> None:
    """Let each tensor be its mean over the processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def mean(x: Tensor) -> Tensor:
    """The mean over the processes."""
    if world_size() > 1:
        dist.all_reduce(x := x.detach().clone())
    return x / world_size()


def join(x: Tensor) -> Tensor:
    """The rows of all processes, each of which may have another number: (n, ...) -> (N, ...). On the CPU."""
    if world_size() == 1:
        return x
    counts = all_gather_object(len(x))
    padded = torch.zeros(max(counts), *x.shape[1:], dtype=x.dtype)
    padded[: len(x)] = x
    shares = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shares, padded)
    return torch.cat([share[:count] for share, count in zip(shares, counts, strict=True)])


class AnyRankFlag:
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
