"""View retrieval: how often a view's nearest neighbor is the other view of its image; needs no labels."""

from siam.measure.pairs import retrieval
from siam.metrics import Look

ORDER = 35
TITLE = "view retrieval"
CAPTION = "How often the nearest of all views is the other view of the same image; needs no labels."
FORMAT = "percent"
PAIRS = True
BASELINES = True


def measure(look: Look) -> float | None:
    """Return the fraction of views that find the other view of their image; None without pairs."""
    return None if look.pairs is None else retrieval(look.pairs)
