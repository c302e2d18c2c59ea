"""The hardware and library versions recorded with every result."""

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Return the date, a description of the hardware, and library versions."""
    import torch
    import torchvision

    from siam.system.device import uses_bf16

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    bf16 = uses_bf16("auto", torch.device("cpu"))
    instructions = torch.backends.cpu.get_cpu_capability() + (" with bf16" if bf16 else "")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "date": date.today().isoformat(),
        "machine": f"{model}, {os.cpu_count()} cores, {instructions}{gpu}",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }
