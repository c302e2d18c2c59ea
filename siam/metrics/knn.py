"""kNN accuracy on validation images: a fast measure of representation quality (Wu et al. 2018)."""

from typing import Any

from siam.measure.knn import knn_accuracy
from siam.metrics import Look
from siam.processes.agree import all_gather_object
from siam.settings.pretraining import Settings

ORDER = 30
TITLE = "kNN accuracy"
CAPTION = "Validation images classified by their nearest training images."
LABEL = "kNN"
LIVE = True
FORMAT = "percent"
QUERIES = True
BASELINES = True


def due(settings: Settings, epoch: int, last: bool) -> bool:
    """Return True every monitor.knn_every epochs and after the last epoch; never if knn_every is 0."""
    every = settings.monitor.knn_every
    return every > 0 and (last or (epoch + 1) % every == 0)


def note(settings: Settings, records: dict[str, Any]) -> str:
    """Return a note with k, the number of neighbors."""
    return f"k = {settings.monitor.knn_k}"


def measure(look: Look) -> float | None:
    """Return kNN accuracy over the queries of all ranks; None without labels or if kNN is disabled."""
    m = look.settings
    if look.queries is None or look.query_labels is None or look.labels is None or m.knn_every == 0:
        return None
    fraction = 0.0
    if len(look.queries):
        bank, queries = (look.features, look.labels), (look.queries, look.query_labels)
        per_class = look.labels.bincount()
        smallest = int(per_class[per_class > 0].min())
        fraction = knn_accuracy(*bank, *queries, look.classes, min(m.knn_k, smallest), m.knn_temperature)
    counts = all_gather_object((round(fraction * len(look.queries)), len(look.queries)))
    return sum(correct for correct, _ in counts) / sum(total for _, total in counts)
