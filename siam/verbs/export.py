"""write an encoder for torchvision, timm, Detectron2 or ONNX, or as plain safetensors"""

from dataclasses import dataclass
from typing import Any

from siam.cli.flags import RunFolder


@dataclass(frozen=True)
class Export:
    """Write a run's encoder in another library's format."""

    run: RunFolder
    format: str
    """Output format: torchvision, timm, detectron2, onnx or safetensors."""
    out: str
    """The file to write, or the folder for timm."""


def main(options: Export) -> dict[str, Any]:
    from siam.convert.export import export

    return export(options.run, options.format, options.out)
