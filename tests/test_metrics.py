"""What every metric's file must define, which types cannot check, since the files are found by listing."""

import inspect

import pytest

from siam.metrics import all_metrics

OPTIONAL = {"CAPTION", "LABEL", "LIVE", "ORDER", "QUERIES", "BASELINES", "due", "draw", "note"}


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
