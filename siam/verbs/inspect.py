"""describe a run or checkpoint, and how healthy its representation is"""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Inspect:
    """Describe a run or checkpoint, and with DATA how healthy its representation is."""

    source: Annotated[Positional[str], arg(metavar="RUN|CHECKPOINT")]
    """A run's folder, or a checkpoint that `siam import` would take."""
    data: Annotated[Positional[str], arg(metavar="[DATA]")] = ""
    """Images: std of z/|z| and effective ranks are measured on up to 2,048 of them."""
    backbone: str | None = None
    """timm's name, if a checkpoint is not of a plain ResNet."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""


def main(options: Inspect) -> dict[str, Any]:
    from siam.convert.inspecting import inspect
    from siam.system.device import find_device, tune_process

    if options.data:
        tune_process(find_device(options.device))
    return inspect(options.source, options.data or None, options.backbone, options.device)
