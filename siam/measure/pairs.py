"""Augmented pairs of views for measures that need no labels, and view retrieval, which uses them."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from siam.data.augment import denormalize
from siam.data.images import Images
from siam.data.loader import ViewLoader
from siam.processes.gather import world_size
from siam.settings.pretraining import Settings


def view_pairs(images: Images, settings: Settings) -> Tensor:
    """Return two training views of each image, in whole batches: uint8 (n, 2, 3, S, S).

    Each rank returns its own share. The views depend only on the images and the settings.
    """
    ranks = world_size()
    batch = min(settings.batch_size, len(images)) // ranks * ranks
    if batch < 2:
        return torch.empty(0, 2, 3, settings.views.size, settings.views.size, dtype=torch.uint8)
    loading = replace(settings.loader, workers=0)
    settings = replace(settings, batch_size=batch, grad_accum=1, epochs=1, time_limit="", loader=loading)
    batches = ViewLoader(images, settings, torch.device("cpu"), views=2).batches()
    flat = [torch.stack(batch.views, dim=1).flatten(0, 1) for batch in batches]  # (2 B, 3, S, S) each
    pixels = torch.cat([(denormalize(x) * 255).round().byte() for x in flat])
    return pixels.view(-1, 2, *pixels.shape[1:])


def retrieval(views: Tensor) -> float:
    """Return how often a view's nearest neighbor is the other view of the same image.

    views: features (n, 2, D) of two views of n images. Each view is looked up among the other views of all n
    images, by cosine; the result is the fraction of hits, in both directions.
    """
    a, b = F.normalize(views, dim=2).unbind(dim=1)
    similarity, own = a @ b.T, torch.arange(len(a))
    hits = torch.stack([similarity.argmax(dim=dim) == own for dim in (0, 1)])
    return float(hits.double().mean())
