"""Devices: which one to use, in which precision, and the settings that make a process fast on it."""

import torch

from siam.errors import SettingsError
from siam.system.malloc import keep_freed_memory


def find_device(name: str) -> torch.device:
    """Return a device by its name; `auto` is the first GPU if there is one.

    It does not change the process, as `tune_process` does. Raises SettingsError for a missing device.
    """
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


def tune_process(device: torch.device) -> None:
    """Make this process fast on a device, for good: TF32 and cuDNN's autotuning, or glibc's memory.

    For trainers and verbs, which own their process. `siam.load` and `siam.embed` run in other people's
    notebooks, and leave them as they are.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        keep_freed_memory()


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return True if `precision` means bf16; `auto` does where the device has instructions for it."""
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
