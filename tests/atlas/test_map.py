"""Clusters and positions of vectors whose groups are known."""

import numpy as np
import pytest

from siam.atlas.clusters import cluster
from siam.atlas.layout import lay_out
from siam.atlas.neighbors import neighbors_of_all


def silent(done, total):
    pass


def groups(sizes, dimension=16, seed=0):
    """Return unit vectors around as many directions as there are sizes, and each one's group."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = 4 * np.eye(dimension)[which] + rng.normal(0, 0.2, (len(which), dimension))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), which


def test_clusters_are_the_groups_the_largest_first():
    unit, which = groups([30, 60, 10])
    found = cluster(unit, 3, representatives=4)
    assert [np.unique(which[found.labels == c]).tolist() for c in range(3)] == [[1], [0], [2]]
    for number, rows in enumerate(found.representatives):
        assert len(set(rows)) == 4
        members = np.flatnonzero(found.labels == number)
        assert set(rows) <= set(members)
        center = unit[members].mean(axis=0)
        assert unit[rows[0]] @ center == pytest.approx((unit[members] @ center).max(), abs=1e-3)


def test_the_number_of_clusters_follows_from_the_number_of_images():
    unit, _ = groups([100, 100])
    assert len(cluster(unit, None, 1).representatives) == 10
    few = cluster(unit[:3], 20, 9)
    assert sorted(few.labels.tolist()) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [1000, 60])
def test_groups_are_apart_on_the_map_and_so_are_placed_images(mapped):
    unit, which = groups([50, 50, 50])
    positions = lay_out(unit, neighbors_of_all(unit, 14, silent), silent, mapped=mapped)
    assert positions.shape == (150, 2)
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-3)
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (which[distances.argmin(axis=1)] == which).mean() > 0.98
    again = lay_out(unit, neighbors_of_all(unit, 14, silent), silent, mapped=mapped)
    np.testing.assert_array_equal(positions, again)


def test_too_few_images_for_a_map_are_laid_out_all_the_same():
    unit, _ = groups([3, 2])
    positions = lay_out(unit, neighbors_of_all(unit, 14, silent), silent)
    assert len(np.unique(positions, axis=0)) == 5
