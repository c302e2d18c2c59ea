"""turn another project's checkpoint (SimSiam, MoCo v2, timm, lightly ...) into a run"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from siam.convert.importer import Imported


@dataclass(frozen=True)
class Import:
    """Turn another project's checkpoint into a run. Its format is recognized by its keys."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """The checkpoint file, or a folder written by timm or siam."""
    out: str
    """The run folder to create."""
    backbone: str | None = None
    """The backbone's timm name, unless it is a plain ResNet."""
    image_size: int | None = None
    """Side in pixels of the images to encode; if left out, 224, or 32 with a small-image stem."""


def main(options: Import) -> "Imported":
    from siam.convert.importer import import_checkpoint

    return import_checkpoint(options.checkpoint, options.out, options.backbone, options.image_size)
