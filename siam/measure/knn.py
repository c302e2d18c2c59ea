"""Weighted k-nearest-neighbor classification of features: a fast measure of representation quality.

Wu et al. 2018 (instance discrimination, arXiv 1805.01978, Sec. 3.4): the k most similar images vote for
their class, each with weight exp(cos / T); k = 200 and T = 0.1 by default.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS, _COLUMNS = 1024, 65536  # block of similarities: 256 MB
_FLOATS = 2**25  # block of the bank to normalize: 128 MB
_BEST = 2**23  # neighbors per block of queries: 96 MB
_GROUP = 16  # similarities that `_largest` first reduces to their maximum


def knn_predict(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Return each class's share of the vote for each query, (M, classes); each row sums to 1.

    bank: features (N, D). labels: class indices (N,). queries: features (M, D). Features are normalized here,
    and k is capped at N. Memory use is bounded for any N and M.
    """
    k, labels = min(k, len(bank)), labels.to(bank.device)
    shares = torch.zeros(len(queries), classes, device=bank.device)
    for start in range(0, len(queries), max(1, _BEST // k)):
        q = F.normalize(queries[start : start + max(1, _BEST // k)].to(bank.device).float(), dim=1)
        similarity, rows = nearest(bank, q, k)  # (b, k)
        weights = torch.softmax(similarity / temperature, dim=1)
        shares[start : start + len(q)].scatter_add_(1, labels[rows], weights)
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
    """Return the fraction of queries for which the correct class wins the vote."""
    predicted = knn_predict(bank, labels, queries, classes, k, temperature).argmax(dim=1)
    return float((predicted == query_labels).double().mean())


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each normalized query's k largest cosines and their bank indices: (b, D) -> (b, k), unsorted.

    bank: features (N, D), normalized here block by block; N is at least k.
    """
    rows = min(_ROWS, len(queries))
    blocks = -(-len(bank) // max(1, min(_COLUMNS, _FLOATS // bank.shape[1])))
    columns = -(-len(bank) // blocks)
    padded = -(-columns // _GROUP) * _GROUP
    cells = queries.new_empty(rows, padded)  # reused for every block, because fresh pages cost time
    best = queries.new_full((len(queries), k), -torch.inf)
    found = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), columns):
        block = F.normalize(bank[start : start + columns].float(), dim=1)
        cells[:, len(block) :] = -torch.inf
        for at in range(0, len(queries), rows):
            q = queries[at : at + rows]
            torch.mm(q, block.T, out=cells[: len(q), : len(block)])
            top, index = _largest(cells[: len(q)], min(k, len(block)))
            if start:
                top = torch.cat([best[at : at + rows], top], dim=1)
                index = torch.cat([found[at : at + rows], index + start], dim=1)
                top, chosen = top.topk(k, dim=1, sorted=False)
                index = index.gather(1, chosen)
            best[at : at + rows, : top.shape[1]] = top
            found[at : at + rows, : top.shape[1]] = index
    return best, found


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's k largest values, unsorted, and their columns; faster than `topk` for long rows.

    The k largest values lie in the k groups with the largest maxima, so only those groups are searched.
    x: (b, n), where n is a multiple of the group size.
    """
    if x.shape[1] <= 2 * k * _GROUP:
        top, index = x.topk(k, dim=1, sorted=False)
        return top, index
    groups = x.reshape(len(x), -1, _GROUP)  # (b, n / group, group)
    kept = groups.amax(dim=2).topk(k, dim=1, sorted=False).indices  # (b, k)
    first = torch.arange(len(x), device=x.device)[:, None] * groups.shape[1]
    candidates = groups.flatten(0, 1).index_select(0, (first + kept).flatten()).view(len(x), -1)
    top, chosen = candidates.topk(k, dim=1, sorted=False)
    return top, kept.gather(1, chosen // _GROUP) * _GROUP + chosen % _GROUP
