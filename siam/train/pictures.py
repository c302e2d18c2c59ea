"""Images for the report: view pairs from a training batch, and nearest neighbors of a few images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siam.data.augment import denormalize
from siam.data.feeds import Batch
from siam.data.images import Images, class_of
from siam.network import Network
from siam.report.pictures import Pictures
from siam.train.monitor import Monitor

PAIRS, QUERIES, NEIGHBORS = 24, 8, 8


def take_pictures(batch: Batch, monitor: Monitor, network: Network, images: Images) -> Pictures:
    """Return augmented view pairs from `batch`, and a few images with their nearest neighbors."""
    pairs = torch.stack(batch.views[:2], dim=1)[:PAIRS]  # (n, 2, 3, S, S)
    side = pairs.shape[-1]
    chosen, nearest = monitor.neighbors(network, queries=QUERIES, count=NEIGHBORS)

    def name(position: int) -> str:
        index = int(monitor.bank_indices[position])
        file = images.path(index).rpartition("/")[2]
        kind = class_of(images, index)
        return file if kind is None else f"{kind}/{file}"

    return Pictures(
        pairs=_pixels(denormalize(pairs.flatten(0, 1)) * 255).reshape(-1, 2, side, side, 3),
        queries=_pixels(monitor.views(chosen)),
        neighbors=_pixels(monitor.views(nearest.ravel())).reshape(*nearest.shape, side, side, 3),
        query_names=[name(i) for i in chosen],
        neighbor_names=[[name(i) for i in row] for row in nearest],
    )


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    """Convert images (N, 3, S, S) with values in [0, 255] to uint8 (N, S, S, 3)."""
    return x.clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
