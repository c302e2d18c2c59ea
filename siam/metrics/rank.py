"""Effective rank of the features: how many dimensions carry them (RankMe, Garrido et al. 2023)."""

from siam.measure.collapse import effective_rank
from siam.metrics import Look

ORDER = 10
TITLE = "effective rank of the features"
CAPTION = "How many dimensions carry the features; needs no labels."
FORMAT = ".1f"


def measure(look: Look) -> float:
    """Return the effective rank of the sample's features, between 1 and min(n, D)."""
    return effective_rank(look.sample)
