"""kNN against brute force, written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siam.measure import knn
from siam.measure.knn import knn_accuracy, knn_predict
from siam.protocols.score import wilson


def brute_force(bank, labels, queries, classes, k, temperature):
    """Return the shares of the vote, with weight exp(cos / T) for each of the k largest (Wu et al. 2018)."""
    votes = np.zeros((len(queries), classes))
    for i, q in enumerate(queries):
        cosines = [b @ q / (np.linalg.norm(b) * np.linalg.norm(q)) for b in bank]
        for j in np.argsort(cosines)[::-1][:k]:
            votes[i, labels[j]] += math.exp((cosines[j] - 1) / temperature)
    return votes / votes.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60), st.integers(1, 20), st.integers(2, 8), st.integers(2, 5), st.integers(1, 80),
    st.sampled_from([0.07, 0.1, 1.0]), st.integers(0, 10**6),
)  # fmt: skip
def test_knn_equals_brute_force_over_any_pieces(n, m, d, classes, k, temperature, seed):
    rng = np.random.default_rng(seed)
    bank, queries, labels = rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.integers(0, classes, n)
    expected = brute_force(bank, labels, queries, classes, k, temperature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "_ROWS", 7)
        patch.setattr(knn, "_COLUMNS", 16)
        patch.setattr(knn, "_GROUP", 4)
        patch.setattr(knn, "_BEST", 64)
        votes = knn_predict(
            torch.from_numpy(bank).float(), torch.from_numpy(labels), torch.from_numpy(queries).float(),
            classes, k, temperature,
        )  # fmt: skip
    assert np.allclose(votes.numpy(), expected, atol=1e-4)


def test_separable_features_are_classified_and_noise_is_not():
    labels = torch.arange(300) % 3
    features = torch.nn.functional.one_hot(labels, 3).float() + 0.01
    assert knn_accuracy(features, labels, features[:30], labels[:30], 3) == 1.0
    noise = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    chance = knn_accuracy(noise[:2000], torch.arange(2000) % 10, noise[2000:], torch.arange(1000) % 10, 10)
    assert abs(chance - 0.1) < 0.04


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (707, 1000, 0.6780, 0.7344)],
)
def test_wilson_interval(right, total, low, high):
    """Values of the score interval's closed form."""
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-4)
