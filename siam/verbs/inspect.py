"""describe a run or checkpoint, and check its representation for collapse"""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Inspect:
    """Describe a run or checkpoint and, with DATA, check its representation for collapse."""

    source: Annotated[Positional[str], arg(metavar="RUN|CHECKPOINT")]
    """Run folder, or a checkpoint that `siam import` supports."""
    data: Annotated[Positional[str], arg(metavar="[DATA]")] = ""
    """Images for the collapse check; at most 2,048 are used."""
    backbone: str | None = None
    """timm name of a checkpoint's backbone; required unless it is a plain ResNet."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""


def main(options: Inspect) -> dict[str, Any]:
    from siam.convert.inspecting import inspect
    from siam.system.device import find_device, tune_process

    if options.data:
        tune_process(find_device(options.device))
    return inspect(options.source, options.data or None, options.backbone, options.device)
