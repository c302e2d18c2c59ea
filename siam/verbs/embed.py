"""write image embeddings to a Parquet file"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from siam.cli.flags import EncoderName


@dataclass(frozen=True)
class Embed:
    """Write image paths, labels and embeddings to a Parquet file; rerun to resume."""

    run: EncoderName
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Images to embed."""
    out: str
    """Output file (Parquet); replaces a file only if it is from the same encoder and data."""
    layer: Literal["backbone", "projector"] = "backbone"
    """Embeddings to write: `backbone` features or `projector` outputs z."""
    precision: Literal["float32", "float16"] = "float32"
    """Data type of the embeddings in the file."""
    batch_size: int = 256
    """Images per batch; each batch becomes one Parquet row group."""
    device: str = "auto"
    """Device: auto, cpu, cuda or mps."""
    workers: int = -1
    """Data-loading workers; -1: based on the number of cores."""


def main(options: Embed) -> dict[str, Any]:
    from siam.convert.vectors import embed_to_parquet
    from siam.processes.rendezvous import local_device
    from siam.system.device import find_device, tune_process

    tune_process(find_device(local_device(options.device)))
    return embed_to_parquet(**{name: getattr(options, name) for name in Embed.__dataclass_fields__})
