"""Random numbers are a function of position: equal at equal positions, independent at others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from siam.data.random import counter_uniform, permutation

positions = st.tuples(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 9))


@given(positions, positions)
def test_numbers_are_equal_at_equal_positions_only(one, other):
    def draw(position):
        seed, epoch, index, stream = position
        return counter_uniform(seed, epoch, np.array([index]), stream, 4)

    assert (draw(one) == draw(one)).all()
    if one != other:
        assert (draw(one) != draw(other)).any()


def test_an_image_draws_the_same_numbers_in_any_batch():
    batch = counter_uniform(3, 1, np.array([5, 9, 7]), 0, 6)
    alone = counter_uniform(3, 1, np.array([9]), 0, 6)
    assert (batch[1] == alone[0]).all()


def test_numbers_are_uniform_and_independent():
    """Each histogram is flat within 5 standard errors; columns and neighboring rows are uncorrelated."""
    n = 100_000
    u = counter_uniform(0, 0, np.arange(n), 0, 5)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        expected = n / 20
        assert abs(counts - expected).max() < 5 * expected**0.5
    between = np.corrcoef(np.c_[u[:-1], u[1:]].T) - np.eye(10)
    assert abs(between).max() < 5 / n**0.5


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    first, second = permutation(0, 0, 1000), permutation(0, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    assert (first == permutation(0, 0, 1000)).all()
    assert (first != permutation(1, 0, 1000)).any()
