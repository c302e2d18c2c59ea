"""Select the device and precision, and set process-wide performance options."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from siam.errors import SettingsError
from siam.system.malloc import keep_freed_memory


def find_device(name: str) -> torch.device:
    """Return the device with the given name.

    `auto` selects the first GPU, or the CPU if there is none. Raises SettingsError if
    the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise SettingsError(
            f"device '{name}' is not available here: choose {' or '.join(_available())}"
        ) from None
    return device


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Build and compute in float32 in this block or function, whatever the user's torch.set_default_dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tune_process(device: torch.device) -> None:
    """Set process-wide performance options.

    Enables TF32 and cuDNN autotuning on GPUs, and memory reuse on CPUs. Called only by
    trainers and CLI commands: `siam.load` and `siam.embed` run in the user's process,
    whose options should not change.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if device.type == "cpu":
        keep_freed_memory()


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return True if computation should use bf16.

    `auto` selects bf16 on devices with native support.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        supported = torch.cpu.get_capabilities()
        return bool(supported.get("avx512_bf16") or supported.get("amx_bf16"))
    return False


def _available() -> list[str]:
    names = ["cpu"]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
