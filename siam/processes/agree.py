"""Exchange results, errors, means and flags among the processes of a run.

With a single process, nothing is exchanged.
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
    """Call `make` on rank 0 only. Every process returns the result or raises the SiamError."""
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
    """Raise an error on every process, marked so that only rank 0 prints it."""
    error.on_all_ranks = True
    raise error


def all_gather_object(value: T) -> list[T]:
    """Return the `value` of every process, in rank order. Values are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_mean(x: Tensor) -> Tensor:
    """Return the mean of `x` across processes, without gradients."""
    if world_size() > 1:
        dist.all_reduce(x := x.detach().clone())
    return x / world_size()


def all_reduce_mean_(tensors: list[Tensor]) -> None:
    """Replace each tensor with its mean across processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()


def gather_uneven(x: Tensor) -> Tensor:
    """Concatenate CPU tensors from all processes: (n, ...) -> (N, ...).

    n may differ between processes.
    """
    if world_size() == 1:
        return x
    counts = all_gather_object(len(x))
    padded = torch.zeros(max(counts), *x.shape[1:], dtype=x.dtype)
    padded[: len(x)] = x
    shares = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(shares, padded)
    return torch.cat([share[:count] for share, count in zip(shares, counts, strict=True)])


class AnyRankFlag:
    """Flags that any process may raise and that all processes see at the same step.

    Each call returns the flags raised in the previous call, so that no process waits
    for the network. (With a single process, each call returns the flags passed to it.)
    If a call returns a flag, raising the flag again in that call has no effect.
    """

    def __init__(self) -> None:
        self._raised = torch.zeros(0)
        self._pending: Any = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """Raise `flags`, and return those any process raised in the previous call."""
        if world_size() == 1:
            return flags
        seen = self._wait(len(flags))
        new = [flag and not known for flag, known in zip(flags, seen, strict=True)]
        self._raised = torch.tensor(new, dtype=torch.uint8)
        self._pending = dist.all_reduce(self._raised, dist.ReduceOp.MAX, async_op=True)
        return seen

    def close(self) -> None:
        """Wait for the all-reduce started by the last call."""
        self._wait(0)

    def _wait(self, count: int) -> tuple[bool, ...]:
        if self._pending is None:
            return (False,) * count
        self._pending.wait()
        return tuple(map(bool, self._raised))
