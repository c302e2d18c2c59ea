"""Which device trains, and in which precision."""

import torch

from siam.errors import SettingsError
from siam.system.malloc import keep_freed_memory


def find_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one. Raises SettingsError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise SettingsError(
            f"device '{name}' is not available here; there are {', '.join(_available())}"
        ) from None
    return device


def pick_device(name: str) -> torch.device:
    """As `find_device`; and from here on this process is set up to be fast on it."""
    device = find_device(name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        keep_freed_memory()
    return device


def uses_bf16(precision: str, device: torch.device) -> bool:
    """`auto`: bf16 where the machine has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def _available() -> list[str]:
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
