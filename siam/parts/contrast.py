"""Agreement against negatives: the objectives of SimCLR (Chen et al. 2020) and MoCo (He et al. 2020)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from siam.parts.gather import gather, rank
from siam.parts.objective import Objective

QUEUE_PARTS = 8  # scored one after the other


class BatchContrast(Objective):
    """NT-Xent (SimCLR Eq. 1): among all views in the batch, find the other view of the same image.

    Anchors are the predictions p, keys the targets z; with a live target and no predictor these are the same
    vectors, and this is SimCLR's loss. The target of the anchor's own view is neither positive nor negative.
    The batch is the global one: each process scores its own anchors against the keys of all.
    """

    def __init__(self, temperature: float, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature, self.symmetric = temperature, symmetric

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """All (b, d), a process's share b of the batch B. Returns a scalar."""
        z1, z2 = gather(torch.cat([z1, z2], dim=1)).chunk(2, dim=1)  # (B, d)
        n = len(z1)
        anchors = torch.cat([p1, p2] if self.symmetric else [p1])  # (A, d), A = 2b or b
        logits = cosines(anchors, torch.cat([z1, z2])) / self.temperature  # (A, 2B)
        view = torch.arange(len(p1), device=p1.device) + rank() * len(p1)  # (b,) where its keys lie
        view = torch.cat([view, view + n])[: len(anchors)]
        own = F.one_hot(view, 2 * n).bool()
        return F.cross_entropy(logits.masked_fill(own, -torch.inf), (view + n) % (2 * n))


class QueueContrast(Objective):
    """InfoNCE against a queue of keys from earlier batches (MoCo Eq. 1).

    The queue takes a batch's keys at the end of the step, when all is scored: a key is never its own
    negative, and nothing need be kept twice. It takes those of all processes, so it is the same in each.
    Queue and place are buffers, so a checkpoint holds them.
    """

    queue: Tensor
    place: Tensor

    def __init__(self, dim: int, size: int, temperature: float, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature, self.symmetric = temperature, symmetric
        self.register_buffer("queue", F.normalize(torch.randn(size, dim), dim=1))  # (K, d)
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.seen: list[Tensor] = []  # keys (n, d) that are to be taken

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """All (B, d), the z without gradient. Returns a scalar."""
        if self.symmetric:
            loss = self.info_nce(p1, z2) / 2 + self.info_nce(p2, z1) / 2
            self.seen += [z2.detach(), z1.detach()]
        else:
            loss = self.info_nce(p1, z2)
            self.seen += [z2.detach()]
        return loss

    def info_nce(self, p: Tensor, z: Tensor) -> Tensor:
        """-log of the share that the positive has in exp(p.z / T) over positive and queue.

        An eighth of the queue at a time, its logits computed anew for the gradient (when the queue must be
        the same): all (B, K) of them would take several times the memory of the queue (K, d).
        """
        positive = F.cosine_similarity(p.float(), z.float(), dim=1) / self.temperature  # (B,)
        anchors = F.normalize(p.float(), dim=1) / self.temperature  # (B, d)
        negatives = [
            checkpoint(log_sum_exp, anchors, keys, use_reentrant=False, preserve_rng_state=False)
            for keys in self.queue.chunk(QUEUE_PARTS)
        ]
        return (torch.stack([positive, *negatives]).logsumexp(dim=0) - positive).mean()

    @torch.no_grad()
    def end(self) -> None:
        """Put the keys in the places of the oldest, round and round; after backward, which needs those."""
        of_all = gather(torch.cat(self.seen, dim=1)).chunk(len(self.seen), dim=1)
        keys = F.normalize(torch.cat(of_all).float(), dim=1)[-len(self.queue) :]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.place = (self.place + len(keys)) % len(self.queue)
        self.seen = []


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(A, d), (B, d) -> (A, B)."""
    return F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T


def log_sum_exp(a: Tensor, b: Tensor) -> Tensor:
    """(A, d), (B, d) -> (A,): of the products with each of b."""
    return (a @ b.T).logsumexp(dim=1)
