"""Every objective against its formula, written out slowly in numpy."""

import importlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siam import objectives
from siam.errors import SettingsError
from siam.methods import SIMSIAM, Method
from siam.objectives import build_objective
from siam.objectives.cosine import negative_cosine
from siam.objectives.cross_entropy import softmax_cross_entropy
from siam.objectives.info_nce import InfoNCE
from siam.objectives.nt_xent import NTXent
from siam.objectives.swapped_prediction import SwappedPrediction, sinkhorn
from siam.plugins import names
from siam.settings.pretraining import Settings

sizes = st.tuples(st.integers(2, 7), st.integers(1, 6), st.integers(0, 10**6))


def vectors(n, d, seed, count=4):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)) for _ in range(count)]


def tensors(arrays):
    return [torch.from_numpy(a).float() for a in arrays]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@given(sizes)
def test_negative_cosine(size):
    """-(1/B) sum_i <p_i, z_i> / (|p_i| |z_i|)."""
    p, z = vectors(*size, count=2)
    expected = -np.mean([p[i] @ z[i] / np.linalg.norm(p[i]) / np.linalg.norm(z[i]) for i in range(len(p))])
    assert float(negative_cosine(*tensors([p, z]))) == pytest.approx(expected, abs=1e-5)


@given(sizes)
def test_softmax_cross_entropy(size):
    """-(1/B) sum_i sum_c softmax(z_i)_c log softmax(p_i)_c."""
    p, z = vectors(*size, count=2)
    expected = -np.mean((softmax(z) * np.log(softmax(p))).sum(axis=1))
    assert float(softmax_cross_entropy(*tensors([p, z]))) == pytest.approx(expected, abs=1e-5)


def nt_xent(z1, z2, temperature):
    """SimCLR Eq. 1, the mean over all 2B ordered positive pairs."""
    z, n = unit(np.concatenate([z1, z2])), len(z1)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k != i]
        total -= np.log(
            np.exp(z[i] @ z[j] / temperature) / sum(np.exp(z[i] @ z[k] / temperature) for k in others)
        )
    return total / (2 * n)


@given(sizes, st.sampled_from([0.1, 0.5, 1.0]))
def test_nt_xent(size, temperature):
    z1, z2 = vectors(*size, count=2)
    a, b = tensors([z1, z2])
    ours = float(NTXent(temperature)(a, b, a, b))
    assert ours == pytest.approx(nt_xent(z1, z2, temperature), rel=1e-4, abs=1e-4)


def test_the_gradient_of_nt_xent_goes_through_anchors_and_keys():
    """With live targets z is p: half of SimCLR's gradient comes through the keys. By finite differences."""
    z1, z2 = vectors(3, 4, seed=5, count=2)
    a, b = (torch.from_numpy(z).requires_grad_() for z in (z1, z2))
    NTXent(0.5)(a, b, a, b).backward()
    step = 1e-5
    for i, j in ((0, 1), (2, 3)):
        up, down = z1.copy(), z1.copy()
        up[i, j] += step
        down[i, j] -= step
        slope = (nt_xent(up, z2, 0.5) - nt_xent(down, z2, 0.5)) / (2 * step)
        assert float(a.grad[i, j]) == pytest.approx(slope, abs=1e-4)


def test_asymmetric_objectives_let_the_first_view_predict_the_second():
    """Sec. 4.6: L = D(p1, z2), from each objective's own formula; p2 and z1 change nothing else."""
    p1, p2, z1, z2 = vectors(3, 4, seed=0)
    given = tensors([p1, p2, z1, z2])

    def value(objective):
        return float(objective(*given).detach())

    cosine = -np.mean((unit(p1) * unit(z2)).sum(axis=1))
    assert value(build_objective(Method(symmetry="asymmetric"))) == pytest.approx(cosine, abs=1e-5)
    soft = Method(objective="cross_entropy", symmetry="asymmetric")
    entropy = -np.mean((softmax(z2) * np.log(softmax(p1))).sum(axis=1))
    assert value(build_objective(soft)) == pytest.approx(entropy, abs=1e-5)

    keys, total = unit(np.concatenate([z1, z2])), 0.0
    for i in range(3):
        logits = np.array([unit(p1)[i] @ keys[k] / 0.2 if k != i else -np.inf for k in range(6)])
        total -= np.log(softmax(logits)[i + 3])
    assert value(NTXent(0.2, symmetric=False)) == pytest.approx(total / 3, abs=1e-5)

    queue = InfoNCE(4, 10, 0.2, symmetric=False)
    logits = np.concatenate(
        [(unit(p1) * unit(z2)).sum(axis=1, keepdims=True), unit(p1) @ queue.queue.numpy().T], axis=1
    )
    assert value(queue) == pytest.approx(-np.log(softmax(logits / 0.2)[:, 0]).mean(), abs=1e-5)

    clusters = SwappedPrediction(4, 5, 0.1, symmetric=False)
    c = unit(clusters.prototypes.detach().numpy().astype(np.float64))
    assigned = plain_sinkhorn(unit(z2) @ c.T, 0.05, 3)
    expected = -(assigned * np.log(softmax(unit(p1) @ c.T / 0.1))).sum(axis=1).mean()
    assert value(clusters) == pytest.approx(expected, rel=1e-3)


def test_contrast_with_a_predictor_scores_predictions_against_targets():
    """Anchors p, keys z; the target of the anchor's own view is left out."""
    p1, p2, z1, z2 = vectors(3, 4, seed=0)
    p, z = unit(np.concatenate([p1, p2])), unit(np.concatenate([z1, z2]))
    total = 0.0
    for i in range(6):
        logits = np.array([p[i] @ z[k] / 0.2 if k != i else -np.inf for k in range(6)])
        total -= np.log(softmax(logits)[(i + 3) % 6])
    assert float(NTXent(0.2)(*tensors([p1, p2, z1, z2]))) == pytest.approx(total / 6, abs=1e-5)


def test_info_nce_over_steps_with_a_circular_queue():
    """MoCo Eq. 1 over five steps; K = 7 is no multiple of what is taken; keys enter after scoring."""
    torch.manual_seed(0)
    objective = InfoNCE(dim=4, size=7, temperature=0.2)
    queue, pointer = objective.queue.numpy().copy(), 0
    for step in range(5):
        p1, p2, z1, z2 = vectors(2, 4, seed=step)

        def loss(p, z, queue=queue):
            rows = []
            for a, b in zip(unit(p), unit(z), strict=True):
                logits = np.array([a @ b, *(a @ key for key in queue)]) / 0.2
                rows.append(-np.log(softmax(logits)[0]))
            return np.mean(rows)

        expected = (loss(p1, z2) + loss(p2, z1)) / 2
        assert float(objective(*tensors([p1, p2, z1, z2]))) == pytest.approx(expected, abs=1e-5)
        objective.after_step()
        for key in unit(np.concatenate([z2, z1])):
            queue[pointer] = key
            pointer = (pointer + 1) % 7
        assert np.allclose(objective.queue.numpy(), queue, atol=1e-6)
        assert int(objective.pointer) == pointer


def test_a_key_is_never_its_own_negative():
    """The queue that scores a batch holds none of its keys, nor for another pair of the same images; it does
    when the step has ended.
    """
    objective = InfoNCE(dim=4, size=10, temperature=0.2)
    p1, p2, z1, z2 = tensors(vectors(3, 4, seed=0))
    keys = torch.nn.functional.normalize(torch.cat([z2, z1]), dim=1)
    scored = objective.queue.clone()
    assert objective(p1, p2, z1, z2) == objective(p1, p2, z1, z2)
    assert torch.equal(objective.queue, scored)
    assert torch.cdist(scored, keys).min() > 1e-3
    objective.after_step()
    assert torch.cdist(objective.queue, keys).min(dim=0).values.max() < 1e-3


def test_the_queue_survives_a_checkpoint_and_the_backward_pass():
    objective = InfoNCE(dim=4, size=10, temperature=0.2)
    p1, p2, z1, z2 = tensors(vectors(3, 4, seed=0))
    p1.requires_grad_()
    objective(p1, p2, z1, z2).backward()
    objective.after_step()
    assert p1.grad.abs().sum() > 0
    other = InfoNCE(dim=4, size=10, temperature=0.2)
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.queue, objective.queue)
    assert other.pointer == 6


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 10**6))
def test_sinkhorn_marginals(n, k, seed):
    """Rows are assignments (sum 1); columns share the batch equally (sum B/K)."""
    scores = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (n, k)))
    q = sinkhorn(scores, epsilon=0.5, iterations=200).numpy()
    assert np.allclose(q.sum(axis=1), 1, atol=1e-4)
    assert np.allclose(q.sum(axis=0), n / k, atol=1e-2)


def plain_sinkhorn(scores, epsilon, iterations):
    """As in SwAV's appendix: Q = exp(scores / eps)^T; rows to 1/K, columns to 1/B, in turn; times B."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    k, n = q.shape
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * n
    return (q * n).T


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 10**6))
def test_sinkhorn_equals_the_plain_algorithm(n, k, seed):
    scores = np.random.default_rng(seed).uniform(-1, 1, (n, k))
    ours = sinkhorn(torch.from_numpy(scores)).numpy()
    assert np.allclose(ours, plain_sinkhorn(scores, 0.05, 3), atol=1e-4)


@settings(deadline=None)
@given(sizes)
def test_swapped_prediction(size):
    """SwAV Eq. 2: cross-entropy of each view's prediction with the other view's assignment."""
    p1, p2, z1, z2 = vectors(*size)
    objective = SwappedPrediction(size[1], prototypes=5, temperature=0.1)
    c = unit(objective.prototypes.detach().numpy().astype(np.float64))

    def loss(p, z):
        q = plain_sinkhorn(unit(z) @ c.T, 0.05, 3)
        return -(q * np.log(softmax(unit(p) @ c.T / 0.1))).sum(axis=1).mean()

    expected = (loss(p1, z2) + loss(p2, z1)) / 2
    ours = float(objective(*tensors([p1, p2, z1, z2])).detach())
    assert ours == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_prototypes_learn_from_assignments_only_when_targets_do():
    """Targets without gradient: prototypes learn as if the assignment were given."""
    objective = SwappedPrediction(4, prototypes=5, temperature=0.1)
    p1, p2, z1, z2 = tensors(vectors(3, 4, seed=0))
    objective(p1, p2, z1, z2).backward()
    ours, objective.prototypes.grad = objective.prototypes.grad, None

    def normalised(x):
        return torch.nn.functional.normalize(x, dim=1)

    c = normalised(objective.prototypes)
    given = [sinkhorn(normalised(z) @ c.T).detach() for z in (z2, z1)]
    scores = [(normalised(p) @ c.T / 0.1).log_softmax(dim=1) for p in (p1, p2)]
    sum(-(q * s).sum(dim=1).mean() / 2 for q, s in zip(given, scores, strict=True)).backward()
    assert torch.allclose(ours, objective.prototypes.grad, atol=1e-5)


def test_prototypes_are_frozen_in_the_first_epoch_alone():
    objective = SwappedPrediction(4, prototypes=5, temperature=0.1)
    for epoch in (0, 1, 2):
        objective.before_step(torch.arange(3), epoch)
        assert objective.prototypes.requires_grad == (epoch > 0)


def test_assignments_pass_gradient_when_targets_do():
    objective = SwappedPrediction(4, prototypes=5, temperature=0.1)
    p1, p2, z1, z2 = tensors(vectors(3, 4, seed=0))
    z1.requires_grad_()
    z2.requires_grad_()
    objective(p1, p2, z1, z2).backward()
    assert z1.grad.abs().sum() > 0


class TestAgainstLightly:
    """Equal to an independent implementation, where it is installed (it comes with `dev`)."""

    @pytest.fixture(autouse=True)
    def loss(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, at import
            self.loss = pytest.importorskip("lightly.loss")

    def test_cosine(self):
        p, z = tensors(vectors(5, 6, seed=1, count=2))
        assert float(negative_cosine(p, z)) == pytest.approx(
            float(self.loss.NegativeCosineSimilarity()(p, z)), abs=1e-5
        )

    def test_nt_xent(self):
        a, b = tensors(vectors(5, 6, seed=1, count=2))
        theirs = float(self.loss.NTXentLoss(temperature=0.2)(a, b))
        assert float(NTXent(0.2)(a, b, a, b)) == pytest.approx(theirs, abs=1e-5)

    def test_sinkhorn(self):
        scores = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (12, 5))).float()
        theirs = importlib.import_module("lightly.loss.swav_loss").sinkhorn(
            scores, iterations=3, epsilon=0.05
        )
        assert torch.allclose(sinkhorn(scores), theirs, atol=1e-5)

    def test_swapped_clusters(self):
        p1, p2 = tensors(vectors(12, 6, seed=2, count=2))
        objective = SwappedPrediction(6, 5, 0.1)
        prototypes = torch.nn.functional.normalize(objective.prototypes, dim=1)
        # theirs knows no predictor: a view's scores are both prediction and source of the assignment
        scores = [torch.nn.functional.normalize(p, dim=1) @ prototypes.T for p in (p1, p2)]
        theirs = float(self.loss.SwaVLoss(temperature=0.1)(scores, []).detach())
        assert float(objective(p1, p2, p1, p2).detach()) == pytest.approx(theirs, abs=1e-5)

    def test_memory_bank_nt_xent(self):
        """Two batches: both score against the bank as it was, and put their keys in afterwards."""
        theirs = self.loss.NTXentLoss(temperature=0.2, memory_bank_size=(10, 6))
        ours = InfoNCE(6, 10, 0.2, symmetric=False)
        ours.queue.copy_(theirs.memory_bank.bank)
        for seed in (3, 4):
            p1, p2, z1, z2 = tensors(vectors(4, 6, seed=seed))
            expected = float(theirs(p1.requires_grad_(), z2).detach())
            assert float(ours(p1, p2, z1, z2).detach()) == pytest.approx(expected, abs=1e-5)
            ours.after_step()


def test_an_unknown_objective_is_answered_with_those_there_are():
    with pytest.raises(SettingsError, match=r"method\.objective must be one of cosine, .*got 'barlow_twins'"):
        replace(SIMSIAM, objective="barlow_twins")
    with pytest.raises(SettingsError, match="did you mean cosine"):
        replace(SIMSIAM, objective="cosin")


@pytest.mark.parametrize("name", names("siam.objectives"))
def test_every_objective_has_words_and_builds(name):
    assert objectives.words(name)
    method = replace(SIMSIAM, objective=name, dim=4, queue=16, prototypes=3)
    assert Settings(batch_size=8, method=method).method.objective == name
    p1, p2, z1, z2 = torch.randn(4, 6, 4)
    objective = build_objective(method, images=6)
    objective.before_step(torch.arange(6), epoch=1)
    loss = objective(p1, p2, z1, z2)
    assert loss.shape == ()
    assert loss.isfinite()
