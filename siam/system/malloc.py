"""How this process holds the memory that it frees."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next allocation, in all of this process and for good.

    Each step of training takes and frees the same hundreds of megabytes, and each photograph its few. By
    default glibc hands them back to the system at once and fetches them again page by page, zeroed: up to a
    fifth of a step on a CPU. Other allocators have no such setting and are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
