"""turn another project's checkpoint (SimSiam, MoCo v2, timm, lightly ...) into a run"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from siam.convert.importer import Imported


@dataclass(frozen=True)
class Import:
    """Turn another project's checkpoint into a run. The format is recognized by the checkpoint's keys."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """The checkpoint file, or a folder written by timm or siam."""
    out: str
    """The run folder to create."""
    backbone: str | None = None
    """The backbone's timm name; needed unless the backbone is a plain ResNet or the checkpoint names it."""
    image_size: int | None = None
    """Input side in pixels. Default: the checkpoint's; failing that, 224, or 32 with a small-image stem."""


def main(options: Import) -> "Imported":
    from siam.convert.importer import import_checkpoint

    return import_checkpoint(options.checkpoint, options.out, options.backbone, options.image_size)
