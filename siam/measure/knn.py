"""Weighted k-nearest neighbours on features: the quickest honest measure of a representation.

Wu et al. 2018 (instance discrimination, arXiv 1805.01978, Sec. 3.4): the k most similar images vote for
their class, each with weight exp(cos / T); k = 200 and T = 0.1 unless said otherwise.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS, _COLUMNS = 1024, 65536  # similarities held at a time: 256 MB
_FLOATS = 2**25  # of the bank, normalised at a time: 128 MB
_BEST = 2**23  # neighbours held at a time: 96 MB
_GROUP = 16  # similarities of which at first only the largest is looked at


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Share of the vote for each class. bank: (N, D), labels: (N,), queries: (M, D). Returns (M, classes).

    Features are normalised here; k is cut to N. Memory is bounded whatever N and M. Shares sum to 1.
    """
    k, labels = min(k, len(bank)), labels.to(bank.device)
    shares = torch.zeros(len(queries), classes, device=bank.device)
    for start in range(0, len(queries), max(1, _BEST // k)):
        q = F.normalize(queries[start : start + max(1, _BEST // k)].to(bank.device).float(), dim=1)
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
    """The k largest cosines of each query (b, D), normalised, and whose: both (b, k), in no order."""
    rows = min(_ROWS, len(queries))
    pieces = -(-len(bank) // max(1, min(_COLUMNS, _FLOATS // bank.shape[1])))
    columns = -(-len(bank) // pieces)
    padded = -(-columns // _GROUP) * _GROUP
    cells = queries.new_empty(rows, padded)  # filled anew for every block: fresh pages cost time
    best = queries.new_full((len(queries), k), -torch.inf)
    where = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), columns):
        piece = F.normalize(bank[start : start + columns].float(), dim=1)
        cells[:, len(piece) :] = -torch.inf
        for at in range(0, len(queries), rows):
            q = queries[at : at + rows]
            torch.mm(q, piece.T, out=cells[: len(q), : len(piece)])
            top, place = _largest(cells[: len(q)], min(k, len(piece)))
            if start:
                top = torch.cat([best[at : at + rows], top], dim=1)
                place = torch.cat([where[at : at + rows], place + start], dim=1)
                top, chosen = top.topk(k, dim=1, sorted=False)
                place = place.gather(1, chosen)
            best[at : at + rows, : top.shape[1]] = top
            where[at : at + rows, : top.shape[1]] = place
    return best, where


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in no order, and their places: `topk`, several times as fast on long rows.

    The k largest lie in the k groups whose own largest are the largest: only within those is anything sorted.
    x: (b, n), n a multiple of the group's size.
    """
    if x.shape[1] <= 2 * k * _GROUP:
        top, place = x.topk(k, dim=1, sorted=False)
        return top, place
    groups = x.reshape(len(x), -1, _GROUP)  # (b, n / group, group)
    which = groups.amax(dim=2).topk(k, dim=1, sorted=False).indices  # (b, k)
    first = torch.arange(len(x), device=x.device)[:, None] * groups.shape[1]
    candidates = groups.flatten(0, 1).index_select(0, (first + which).flatten()).view(len(x), -1)
    top, chosen = candidates.topk(k, dim=1, sorted=False)
    return top, which.gather(1, chosen // _GROUP) * _GROUP + chosen % _GROUP
