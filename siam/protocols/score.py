"""Classification metrics: top-1, top-5 and per-class accuracy, confusion matrix."""

import math

import numpy as np
import torch
from torch import Tensor


def score(scores: Tensor, truth: Tensor, classes: tuple[str, ...]) -> dict[str, object]:
    """Compute `Evaluation` metrics from scores (M, classes) and true classes (M,).

    A class with score -inf is not predicted at all, so it does not count as one of the top 5.
    """
    predicted = scores.argmax(dim=1)
    correct = predicted == truth
    top5 = None
    if len(classes) > 5:
        best = scores.topk(5, dim=1)
        hits = (best.indices == truth[:, None]) & (best.values > -torch.inf)
        top5 = float(hits.any(dim=1).double().mean())
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((truth, predicted), torch.ones_like(truth), accumulate=True)
    return {
        "top1": float(correct.double().mean()),
        "top5": top5,
        "interval": wilson(int(correct.sum()), len(correct)),
        "per_class": {
            name: float(row[c] / row.sum())
            for c, (name, row) in enumerate(zip(classes, confusion, strict=True))
            if row.sum() > 0
        },
        "val_images": len(truth),
        "confusion": confusion.tolist(),
    }


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927)."""
    z = 1.959964
    p, n = correct / total, total
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(np.clip(center - half, 0, 1)), float(np.clip(center + half, 0, 1))
