"""Say in words whether an encoder has learned anything, by comparing it with encoders that cost nothing.

A healthy run has no collapsed dimensions, which does not mean that its features are good: on small budgets,
features can be evenly spread and still classify worse than raw pixels.
"""

from collections.abc import Mapping

BASELINES = {"pixel_knn": "raw pixels", "untrained_knn": "the untrained network"}

ADVICE = (
    "Train longer (--for), keep more of the image in each view (--views.scale 0.5 1), or try another method "
    "(--method)."
)


def not_better_than(metrics: Mapping[str, float | None]) -> list[str]:
    """Return the baselines whose kNN accuracy the encoder does not exceed, in words; [] without labels."""
    knn = metrics.get("knn")
    if knn is None:
        return []
    values = {words: metrics.get(name) for name, words in BASELINES.items()}
    return [words for words, value in values.items() if value is not None and value >= knn]


def usefulness(metrics: Mapping[str, float | None]) -> tuple[str, str]:
    """Return a sentence that compares the encoder with its baselines, and advice; "" where there is none."""
    knn, pixels, untrained = (metrics.get(name) for name in ("knn", *BASELINES))
    if knn is None or pixels is None or untrained is None:
        return "", ""
    reached = not_better_than(metrics)
    compared = f"kNN {100 * knn:.1f} %, raw pixels {100 * pixels:.1f} %, untrained {100 * untrained:.1f} %"
    if reached:
        return f"not useful yet: no better than {' or '.join(reached)} ({compared}).", ADVICE
    points = 100 * (knn - max(pixels, untrained))
    return f"learned: {points:.1f} points above the better baseline ({compared}).", ""
