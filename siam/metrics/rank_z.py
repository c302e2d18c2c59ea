"""Effective rank of the projections, which reveals collapsed directions of z, unlike per-channel std."""

from siam.measure.collapse import effective_rank
from siam.metrics import Look

ORDER = 20
TITLE = "effective rank of the projections"
CAPTION = "How many dimensions z spans; a low number means partial collapse."
LABEL = ""
FORMAT = ".1f"


def measure(look: Look) -> float | None:
    """Return the effective rank of the sample's projections, between 1 and min(n, d); None for raw pixels."""
    return None if look.z is None else effective_rank(look.z)
