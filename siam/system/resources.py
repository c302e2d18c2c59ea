"""The CPU cores, memory and open files available to this process."""

import contextlib
import os

import torch

_UNKNOWN = 4 * 2**30  # bytes


def available_cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Return a device's free memory in bytes; 4 GiB if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):  # Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return _UNKNOWN


def total_memory() -> int:
    """Return this machine's memory in bytes; 4 GiB if it is unknown."""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _UNKNOWN


def raise_file_limit(enough: int = 4096) -> int:
    """Raise the limit of open files to `enough` if this process may, and return it."""
    try:
        import resource
    except ImportError:  # Windows
        return enough
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    if 0 <= soft < highest:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft >= 0 else enough
