"""What every metric's file must define, which types cannot check, since the files are found by listing."""

import inspect

import pytest
import torch

from siam.metrics import Look, all_metrics, knn
from siam.settings.pretraining import MonitorSettings

OPTIONAL = {"CAPTION", "LABEL", "LIVE", "ORDER", "PAIRS", "QUERIES", "BASELINES", "due", "draw", "note"}


@pytest.mark.parametrize("name", all_metrics())
def test_a_metric_has_the_form_that_the_package_asks_for(name):
    metric = all_metrics()[name]
    assert metric.TITLE
    assert metric.FORMAT == "percent" or format(0.5, metric.FORMAT)
    assert list(inspect.signature(metric.measure).parameters) == ["look"]
    own = {
        key for key, value in vars(metric).items() if getattr(value, "__module__", name) == metric.__name__
    }
    constants = {key for key in vars(metric) if key.isupper()}
    unknown = (own | constants) - OPTIONAL - {"TITLE", "FORMAT", "measure"}
    assert {key for key in unknown if not key.startswith("_")} == set(), "a misspelled name?"


def test_metrics_have_places_of_their_own():
    orders = [metric.ORDER for metric in all_metrics().values()]
    assert len(set(orders)) == len(orders)


def test_k_never_exceeds_the_smallest_class():
    """With k = 20 and a class of 2 images among 30, the larger class would win every vote."""
    rng = torch.Generator().manual_seed(0)
    few, many = torch.randn(2, 8, generator=rng) + 3, torch.randn(28, 8, generator=rng)
    labels = torch.tensor([0, 0] + [1] * 28)
    queries = torch.randn(10, 8, generator=rng) + 3
    look = Look(
        MonitorSettings(knn_k=20),
        torch.cat([few, many]),
        few,
        None,
        labels,
        2,
        queries,
        torch.zeros(10).long(),
    )
    assert knn.measure(look) == 1.0
