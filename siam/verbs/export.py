"""export an encoder to torchvision, timm, Detectron2, ONNX or safetensors"""

from dataclasses import dataclass
from typing import Any

from siam.cli.flags import RunFolder


@dataclass(frozen=True)
class Export:
    """Export a run's encoder to the format of another library."""

    run: RunFolder
    format: str
    """Output format: torchvision, timm, detectron2, onnx or safetensors."""
    out: str
    """Output file, or output folder for timm; only an earlier export is replaced."""


def main(options: Export) -> dict[str, Any]:
    from siam.convert.export import export

    return export(options.run, options.format, options.out)
