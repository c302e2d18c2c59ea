"""Whether an encoder is better than raw pixels and than an untrained network, in words."""

import pytest

from siam.measure.usefulness import not_better_than, usefulness


def values(knn, pixels, untrained):
    return {"knn": knn, "pixel_knn": pixels, "untrained_knn": untrained}


@pytest.mark.parametrize(
    ("measured", "reached"),
    [
        (values(0.6, 0.4, 0.3), []),
        (values(0.34, 0.49, 0.3), ["raw pixels"]),
        (values(0.273, 0.26, 0.312), ["the untrained network"]),
        (values(0.3, 0.3, 0.3), ["raw pixels", "the untrained network"]),
        (values(None, 0.3, 0.3), []),
        ({}, []),
    ],
)
def test_baselines_that_are_not_exceeded(measured, reached):
    assert not_better_than(measured) == reached


def test_words():
    words = (
        "learned: 20.0 points above the better baseline (kNN 60.0 %, raw pixels 40.0 %, untrained 35.0 %)."
    )
    assert usefulness(values(0.6, 0.4, 0.35)) == (words, "")
    words, advice = usefulness(values(0.341, 0.489, 0.295))
    assert words == (
        "not useful yet: no better than raw pixels (kNN 34.1 %, raw pixels 48.9 %, untrained 29.5 %)."
    )
    assert "--for" in advice
    assert usefulness({"knn": None}) == ("", "")
