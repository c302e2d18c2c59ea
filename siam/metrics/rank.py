"""Effective rank of the features: how many dimensions they span (RankMe, Garrido et al. 2023)."""

from typing import Any

from siam.measure.collapse import effective_rank
from siam.metrics import Look
from siam.settings.pretraining import Settings

ORDER = 10
TITLE = "effective rank of the features"
CAPTION = "How many dimensions the features span; needs no labels."
FORMAT = ".1f"


def note(settings: Settings, records: dict[str, Any]) -> str:
    """Return a note with the maximum possible rank and the effective rank of the projections."""
    bound = f"at most {records['features']}" if "features" in records else ""
    projections = f"of z {records['rank_z']:.1f}" if "rank_z" in records else ""
    return "; ".join(part for part in (bound, projections) if part)


def measure(look: Look) -> float:
    """Return the effective rank of the sample's features, between 1 and min(n, D)."""
    return effective_rank(look.sample)
