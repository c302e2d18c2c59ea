"""write one vector per image to a Parquet file"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from siam.cli.flags import RunFolder


@dataclass(frozen=True)
class Embed:
    """Write the path, label and embedding of every image to a Parquet file; rerun the command to resume."""

    run: RunFolder
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """The images to embed."""
    out: str
    """The Parquet file to write."""
    layer: Literal["backbone", "projector"] = "backbone"
    """What to write: `backbone` features, or the `projector` output z."""
    precision: Literal["float32", "float16"] = "float32"
    """Precision of the embeddings in the file."""
    batch_size: int = 256
    """Images per batch; each batch becomes one Parquet row group."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Image-decoding workers; -1: based on the number of cores."""


def main(options: Embed) -> dict[str, Any]:
    from siam.convert.vectors import embed_to_parquet
    from siam.processes.rendezvous import local_device
    from siam.system.device import find_device, tune_process

    tune_process(find_device(local_device(options.device)))
    return embed_to_parquet(**{name: getattr(options, name) for name in Embed.__dataclass_fields__})
