"""Weighted k-nearest neighbours on features: the quickest honest measure of a representation.

Wu et al. 2018 (instance discrimination, arXiv 1805.01978, Sec. 3.4): the k most similar images vote for
their class, each with weight exp(cos / T); k = 200 and T = 0.1 unless said otherwise.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_QUERIES, _BANK = 1024, 16384  # similarities held at a time: 64 MB


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Votes for each class. bank: (N, D), labels: (N,), queries: (M, D). Returns (M, classes).

    Features are normalised here; k is cut to N. Memory is bounded whatever N and M.
    """
    bank, k = F.normalize(bank, dim=1), min(k, len(bank))
    votes = torch.zeros(len(queries), classes)
    for start in range(0, len(queries), _QUERIES):
        q = F.normalize(queries[start : start + _QUERIES], dim=1)
        similarity, nearest = _nearest(bank, q, k)  # (b, k)
        weights = torch.exp((similarity - 1) / temperature)  # cos - 1: the same vote, and no overflow
        votes[start : start + len(q)].scatter_add_(1, labels[nearest], weights)
    return votes


def knn_accuracy(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Share of the queries whose class wins the vote."""
    predicted = knn_predict(bank, labels, queries, classes, k, temperature).argmax(dim=1)
    return float((predicted == query_labels).double().mean())


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each query, over the bank piece by piece."""
    best = torch.empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(bank), _BANK):
        piece = bank[start : start + _BANK]
        top, at = (queries @ piece.T).topk(min(k, len(piece)), dim=1)
        best, where = torch.cat([best, top], dim=1), torch.cat([where, at + start], dim=1)
        best, chosen = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, chosen)
    return best, where
