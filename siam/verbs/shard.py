"""write images as WebDataset shards, for remote storage"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Shard:
    """Write the images of DATA, unchanged and in order, as WebDataset shards (.tar)."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Images to write."""
    out: str
    """Output folder, which `siam pretrain` can read as DATA."""
    size: str = "512MB"
    """Maximum size of a shard."""


def main(options: Shard) -> dict[str, Any]:
    from rich.console import Console

    from siam.data.sharding import shard
    from siam.runs.bars import print_line, transient_progress

    console = Console(stderr=True)
    with transient_progress(console) as bar:
        announce = partial(print_line, console)
        return shard(options.data, options.out, options.size, bar("shard"), announce)
