"""Contrast with a queue of earlier keys: the objective of MoCo (He et al. 2020)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from siam.parts.objective import Objective
from siam.processes.gather import all_gather

QUEUE_PARTS = 8  # scored one after the other


class InfoNCE(Objective):
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
        of_all = all_gather(torch.cat(self.seen, dim=1)).chunk(len(self.seen), dim=1)
        keys = F.normalize(torch.cat(of_all).float(), dim=1)[-len(self.queue) :]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys)
        self.place = (self.place + len(keys)) % len(self.queue)
        self.seen = []


def log_sum_exp(a: Tensor, b: Tensor) -> Tensor:
    """(A, d), (B, d) -> (A,): of the products with each of b."""
    return (a @ b.T).logsumexp(dim=1)
