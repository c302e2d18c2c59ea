"""write images as WebDataset shards, for remote storage"""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Shard:
    """Write the images of DATA, unchanged and in order, as WebDataset shards (.tar)."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """The images to write."""
    out: str
    """The folder for the shards; pass it to `siam pretrain` as DATA."""
    size: str = "512MB"
    """Maximum shard size."""


def main(options: Shard) -> dict[str, Any]:
    from rich.console import Console

    from siam.data.sharding import shard
    from siam.runs.bars import transient_progress

    with transient_progress(Console(stderr=True)) as bar:
        return shard(options.data, options.out, options.size, bar("shard"))
