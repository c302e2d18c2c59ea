"""Hand tensors from a worker to the main process, in memory that both share where there is enough of it.

Containers often have 64 MB in /dev/shm, less than a few batches. torch drops a batch that does not fit, with
an error in a thread of the worker, and the main process waits for it without a limit. Here, it is sent in an
anonymous file, which does not count as /dev/shm, or through a pipe.
"""

import mmap
import os
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor


def send_tensors(in_pipes: bool = False) -> None:
    """Set how this process sends tensors. in_pipes: through pipes only, because open files are scarce."""
    ForkingPickler.register(Tensor, _reduce_in_pipes if in_pipes else _reduce)


def _reduce(x: Tensor) -> Any:
    """Share a tensor's memory; without room in /dev/shm, send it in an anonymous file."""
    try:
        x.share_memory_()  # type: ignore[no-untyped-call]  # fails here, not in torch's queue, which drops it
        return reduce_tensor(x)  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError):
        try:
            return _reduce_in_file(x)
        except (AttributeError, OSError):  # not Linux, or too many open files
            return _reduce_in_pipes(x)


def _reduce_in_file(x: Tensor) -> Any:
    flat = _flat(x)
    file = os.memfd_create("siam")
    try:
        os.truncate(file, max(1, flat.nbytes))
        with mmap.mmap(file, max(1, flat.nbytes)) as memory:
            memory[: flat.nbytes] = flat.tobytes()
        return _from_file, (DupFd(file), x.dtype, x.shape, x.stride(), x.storage_offset())
    finally:
        os.close(file)


def _from_file(file: Any, dtype: torch.dtype, *layout: Any) -> Tensor:
    number = file.detach()
    try:
        memory = mmap.mmap(number, 0)
    finally:
        os.close(number)
    whole = len(memory) - len(memory) % dtype.itemsize
    return torch.frombuffer(memory, dtype=torch.uint8)[:whole].view(dtype).as_strided(*layout)


def _reduce_in_pipes(x: Tensor) -> Any:
    return _from_array, (_flat(x), x.dtype, x.shape, x.stride(), x.storage_offset())


def _from_array(flat: Any, dtype: torch.dtype, *layout: Any) -> Tensor:
    return torch.from_numpy(flat).view(dtype).as_strided(*layout)


def _flat(x: Tensor) -> Any:
    """Return the bytes of a tensor's storage, uint8 (n,), so that its strides can be restored."""
    storage = x.detach().untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
