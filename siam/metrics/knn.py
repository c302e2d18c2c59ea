"""kNN accuracy on validation images: a fast measure of representation quality (Wu et al. 2018)."""

from typing import Any

from torch import Tensor

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
    """Return kNN accuracy over the labeled queries of all ranks; None without any or if kNN is disabled."""
    m = look.settings
    if look.queries is None or look.query_labels is None or look.labels is None or m.knn_every == 0:
        return None
    bank, queries = _labeled(look.features, look.labels), _labeled(look.queries, look.query_labels)
    fraction, count = 0.0, len(queries[0])
    if count and len(bank[0]):
        per_class = bank[1].bincount()
        smallest = int(per_class[per_class > 0].min())
        fraction = knn_accuracy(*bank, *queries, look.classes, min(m.knn_k, smallest), m.knn_temperature)
    counts = all_gather_object((round(fraction * count), count))
    total = sum(count for _, count in counts)
    return sum(correct for correct, _ in counts) / total if total and len(bank[0]) else None


def _labeled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features and labels of the images that have a label."""
    known = labels >= 0
    return (features, labels) if known.all() else (features[known], labels[known])
