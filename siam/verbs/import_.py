"""turn a checkpoint of another project (SimSiam, MoCo v2, timm, lightly ...) into a run"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from siam.convert.importer import Imported


@dataclass(frozen=True)
class Import:
    """Turn another project's checkpoint into a run. Its format is recognized by its keys."""

    checkpoint: Annotated[Positional[str], arg(metavar="CHECKPOINT")]
    """The file, or a folder that timm or siam wrote."""
    out: str
    """The run's folder."""
    backbone: str | None = None
    """The backbone's timm name, if it is not a plain ResNet."""
    image_size: int | None = None
    """Side in pixels of the images it is used on; 224 if left out, 32 with a small-image stem."""


def main(options: Import) -> "Imported":
    from siam.convert.importer import import_checkpoint

    return import_checkpoint(options.checkpoint, options.out, options.backbone, options.image_size)
