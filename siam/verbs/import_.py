"""import a checkpoint from another project (SimSiam, MoCo v2, timm, lightly, ...)"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from siam.convert.importer import Imported


@dataclass(frozen=True)
class Import:
    """Import a checkpoint as a run; its format is detected from its keys."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """Checkpoint file, or a folder written by timm, Transformers or Siam."""
    out: str
    """Run folder to create."""
    backbone: str | None = None
    """timm name of the backbone, unless it is a ResNet or the checkpoint names it."""
    image_size: int | None = None
    """Input size in pixels; if omitted, the checkpoint's, else 224 (small stem: 32)."""


def main(options: Import) -> "Imported":
    from siam.convert.importer import import_checkpoint

    return import_checkpoint(options.checkpoint, options.out, options.backbone, options.image_size)
