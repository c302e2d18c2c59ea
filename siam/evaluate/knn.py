"""Weighted k-nearest neighbours on features: the quickest honest measure of a representation.

Wu et al. 2018 (instance discrimination, arXiv 1805.01978, Sec. 3.4): the k most similar images vote for
their class, each with weight exp(cos / T); k = 200 and T = 0.1 unless said otherwise.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_QUERIES, _BANK = 1024, 65536  # similarities held at a time: 256 MB
_FLOATS = 2**25  # of the bank, normalised at a time: 128 MB
_GROUP = 32  # similarities of which at first only the largest is looked at


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Share of the vote for each class. bank: (N, D), labels: (N,), queries: (M, D). Returns (M, classes).

    Features are normalised here; k is cut to N. Memory is bounded whatever N and M. Shares sum to 1.
    """
    k = min(k, len(bank))
    labels = labels.to(bank.device)
    rows = max(1, min(_QUERIES, _QUERIES * _BANK // k))
    shares = torch.zeros(len(queries), classes, device=bank.device)
    for start in range(0, len(queries), rows):
        q = F.normalize(queries[start : start + rows].to(bank.device).float(), dim=1)
        similarity, nearest = _nearest(bank, q, k)  # (b, k)
        weights = torch.softmax(similarity / temperature, dim=1)
        shares[start : start + len(q)].scatter_add_(1, labels[nearest], weights)
    return shares.to(queries.device)


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
    """The k largest cosines of each query (b, D), normalised, and whose: piece by piece of the bank."""
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    size = max(1, min(_BANK, _FLOATS // bank.shape[1], len(bank)))
    cells = queries.new_empty(len(queries) * size)  # filled anew for every piece: fresh pages cost time
    for start in range(0, len(bank), size):
        piece = F.normalize(bank[start : start + size].float(), dim=1)
        similarity = cells[: len(queries) * len(piece)].view(len(queries), len(piece))
        torch.mm(queries, piece.T, out=similarity)
        top, at = _largest(similarity, min(k, len(piece)))
        best, where = torch.cat([best, top], dim=1), torch.cat([where, at + start], dim=1)
        if best.shape[1] > k:
            best, chosen = best.topk(k, dim=1, sorted=False)
            where = where.gather(1, chosen)
    return best, where


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in no order, and where: `topk`, several times as fast on long rows.

    Each of the k largest lies in one of the k groups whose own largest are the largest: only those count.
    """
    groups = x.shape[1] // _GROUP
    if groups <= 2 * k:
        top, at = x.topk(k, dim=1, sorted=False)
        return top, at
    whole, rest = groups * _GROUP, torch.arange(groups * _GROUP, x.shape[1], device=x.device)
    grouped = x[:, :whole].reshape(len(x), groups, _GROUP)
    which = grouped.amax(dim=2).topk(k, dim=1, sorted=False).indices  # (b, k)
    within = torch.arange(_GROUP, device=x.device)
    candidates = grouped[torch.arange(len(x), device=x.device)[:, None], which].flatten(1)
    places = (which[:, :, None] * _GROUP + within).flatten(1)  # (b, k * group)
    candidates = torch.cat([candidates, x[:, whole:]], dim=1)
    places = torch.cat([places, rest.expand(len(x), -1)], dim=1)
    top, chosen = candidates.topk(k, dim=1, sorted=False)
    return top, places.gather(1, chosen)
