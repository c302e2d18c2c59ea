"""Logistic regression on precomputed features, much faster than linear evaluation."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from siam.data.random import permutation

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidates for C, the inverse regularization strength in scikit-learn."""

_INNER_FRACTION = 0.2  # fraction of the images held out to choose C
_MIN_SEARCH_IMAGES = 200  # with fewer, the best C on the held-out ones would be chance
_MAX_SEARCH_IMAGES = 20000  # images used to choose C; the final fit uses all


def probe(
    features: Tensor, labels: Tensor, queries: Tensor, classes: int, seed: int = 0
) -> tuple[Tensor, float]:
    """Fit a logistic regression; return scores of the queries (M, classes) and C.

    features (N, D), labels (N,): the training set. queries (M, D): the features to
    classify. C is chosen on held-out training images; with fewer than 200 it is 1.
    Classes absent from `labels` get a score of -inf.
    """
    x, y = _scaled(features), labels.numpy()
    order = permutation(seed, 2, len(x))[:_MAX_SEARCH_IMAGES]
    cut = max(1, int(len(order) * _INNER_FRACTION))
    inner, held = order[cut:], order[:cut]
    best = STRENGTHS[len(STRENGTHS) // 2]
    if len(order) >= _MIN_SEARCH_IMAGES and len(np.unique(y[inner])) > 1:
        best = max(
            STRENGTHS, key=lambda c: float((_fit(x[inner], y[inner], c).predict(x[held]) == y[held]).mean())
        )
    scores = torch.full((len(queries), classes), -torch.inf)
    if len(np.unique(y)) == 1:
        scores[:, y[0]] = 0.0
        return scores, best
    model = _fit(x, y, best)
    scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(
        model.predict_log_proba(_scaled(queries))
    ).float()
    return scores, best


def _scaled(features: Tensor) -> NDArray[np.float32]:
    """Scale each row to norm sqrt(D), so that values are about 1 for any backbone."""
    return (F.normalize(features.float(), dim=1) * features.shape[1] ** 0.5).numpy()


def _fit(x: NDArray[np.float32], y: NDArray[np.int64], c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=500, tol=1e-3).fit(x, y)
