"""InfoNCE, MoCo's objective (He et al. 2020): contrast with a queue of keys from earlier batches."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from siam.errors import SettingsError
from siam.parts.objective import Objective
from siam.processes.gather import all_gather
from siam.settings.method import Method, require_targets_without_gradient

WORDS = "contrast with a queue"

QUEUE_CHUNKS = 8  # chunks of the queue, scored one at a time to save memory


def build(method: Method, images: int) -> "InfoNCE":
    return InfoNCE(method.dim, method.queue, method.temperature, method.is_symmetric)


def check(method: Method, batch_size: int) -> None:
    require_targets_without_gradient(method)
    if method.queue <= batch_size:
        raise SettingsError(
            f"method.queue must be larger than batch_size, got {method.queue} and {batch_size}"
        )


class InfoNCE(Objective):
    """InfoNCE against a queue of keys from earlier batches (MoCo Eq. 1).

    A batch's keys enter the queue only after the step, so no key serves as its own negative. Keys are
    gathered from all processes, so every process holds the same queue. The queue and its pointer are buffers,
    so they are saved in checkpoints.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, dim: int, size: int, temperature: float, symmetric: bool = True) -> None:
        super().__init__()
        self.temperature, self.symmetric = temperature, symmetric
        self.register_buffer("queue", F.normalize(torch.randn(size, dim), dim=1))  # (K, d)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))  # to the oldest key
        self.pending: list[Tensor] = []  # keys (b, d) of this step

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """Return the loss, a scalar, for predictions p and targets z, each (b, d); z carries no gradient."""
        if self.symmetric:
            loss = self.info_nce(p1, z2) / 2 + self.info_nce(p2, z1) / 2
            self.pending += [z2.detach(), z1.detach()]
        else:
            loss = self.info_nce(p1, z2)
            self.pending += [z2.detach()]
        return loss

    def info_nce(self, p: Tensor, z: Tensor) -> Tensor:
        """Return the mean InfoNCE loss over the positive and the queue, with logits cos(p, key) / T.

        The queue is scored in chunks, whose logits are recomputed in the backward pass, so the queue must not
        change before that pass. Keeping all (b, K) logits would take several times the memory of the
        queue (K, d).
        """
        positive = F.cosine_similarity(p.float(), z.float(), dim=1) / self.temperature  # (b,)
        anchors = F.normalize(p.float(), dim=1) / self.temperature  # (b, d)
        negatives = [  # (b,) each
            checkpoint(log_sum_exp, anchors, keys, use_reentrant=False, preserve_rng_state=False)
            for keys in self.queue.chunk(QUEUE_CHUNKS)
        ]
        return (torch.stack([positive, *negatives]).logsumexp(dim=0) - positive).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Replace the oldest keys in the queue with this step's keys."""
        gathered = all_gather(torch.cat(self.pending, dim=1))  # n times (b, d) -> (b, nd) -> (B, nd)
        keys = torch.cat(gathered.chunk(len(self.pending), dim=1))  # (nB, d)
        keys = F.normalize(keys.float(), dim=1)[-len(self.queue) :]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, slots, keys)
        self.pointer = (self.pointer + len(keys)) % len(self.queue)
        self.pending = []


def log_sum_exp(a: Tensor, b: Tensor) -> Tensor:
    """Return the log-sum-exp of each row's dot products with all rows of b: (A, d), (B, d) -> (A,)."""
    return (a @ b.T).logsumexp(dim=1)
