"""Suggest labels for all images from those of a few: by a probe, or by the nearest labeled images."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from siam.atlas.labels import Labels
from siam.errors import DataError
from siam.measure.knn import knn_predict
from siam.protocols.probe import probe

_K, _TEMPERATURE = 10, 0.1
_BLOCK = 8192  # images whose cosines to the labeled ones are held at a time


@dataclass(frozen=True)
class Suggestions:
    """A label for each row of a map."""

    by: str
    """probe or neighbors."""
    names: tuple[str, ...]
    codes: NDArray[np.int32]
    """Index into `names` (N,)."""
    scores: NDArray[np.float32]
    """Confidence in [0, 1], (N,)."""
    margins: NDArray[np.float32]
    """Score of the label less that of the next one, (N,): the lower, the less certain."""
    labels: int
    """Labels it learned from."""
    seconds: float


def suggest(vectors: NDArray[np.float32], labels: Labels, by: str) -> Suggestions:
    """Suggest a label for each image from the labels given by hand.

    vectors: embeddings (N, D). by: `probe`, logistic regression as in `siam evaluate --protocol probe`, whose
    scores are probabilities; or `neighbors`, the vote of the nearest labeled images times the cosine of the
    nearest one, so that images unlike any labeled one score low. Raises DataError without labels, or if a
    probe has fewer than two.
    """
    started = time.monotonic()
    rows = labels.by_hand()
    if not len(rows):
        raise DataError("no image has a label yet: name some first")
    used, y = np.unique(labels.codes[rows], return_inverse=True)
    bank, targets, queries = torch.from_numpy(vectors[rows]), torch.from_numpy(y), torch.from_numpy(vectors)
    if by == "probe":
        if len(used) < 2:
            raise DataError("a probe needs images of at least two labels")
        shares = probe(bank, targets, queries, len(used))[0].exp()
    elif by == "neighbors":
        k = min(_K, int(np.bincount(y).max()))
        shares = knn_predict(bank, targets, queries, len(used), k, _TEMPERATURE) * _nearness(bank, queries)
    else:
        raise DataError(f"suggestions come by probe or by neighbors, not by {by!r}")
    best, codes = shares.topk(min(2, len(used)), dim=1)
    margins = best[:, 0] - (best[:, 1] if len(used) > 1 else 0)
    return Suggestions(
        by=by,
        names=tuple(labels.names[code] for code in used),
        codes=codes[:, 0].numpy().astype(np.int32),
        scores=best[:, 0].float().clamp(max=1).numpy(),
        margins=margins.float().numpy(),
        labels=len(rows),
        seconds=time.monotonic() - started,
    )


def _nearness(bank: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return each query's cosine to its nearest labeled image, at least 0: (n, D), (M, D) -> (M, 1)."""
    bank = F.normalize(bank.float(), dim=1)
    blocks = (F.normalize(q.float(), dim=1) @ bank.T for q in torch.split(queries, _BLOCK))
    return torch.cat([cosines.amax(dim=1, keepdim=True) for cosines in blocks]).clamp(0, 1)
