"""A user's settings, applied over a base that is chosen later."""

import pytest

from siam.errors import SettingsError
from siam.recipes import CIFAR10, DEMO
from siam.settings.overrides import Overrides
from siam.settings.pretraining import Settings


def test_settings_not_given_are_those_of_the_base():
    overrides = Overrides({"epochs": 3, "optimizer": {"lr": 0.5}, "views": {"scale": [0.1, 0.2]}})
    for base in (DEMO, CIFAR10):
        settings = overrides.over(base)
        assert (settings.epochs, settings.optimizer.lr, settings.views.scale) == (3, 0.5, (0.1, 0.2))
        assert settings.optimizer.weight_decay == base.optimizer.weight_decay
        assert settings.method == base.method
    assert Overrides().over(DEMO) is not None
    assert Overrides().over(DEMO) == DEMO


def test_only_but_and_get():
    overrides = Overrides({"epochs": 3, "method": {"name": "byol"}})
    assert overrides.only("epochs", "seed").given == {"epochs": 3}
    assert overrides.but(epochs=4, seed=1).given == {"epochs": 4, "method": {"name": "byol"}, "seed": 1}
    assert overrides.given["epochs"] == 3
    assert overrides.get("method.name", "simsiam") == "byol"
    assert overrides.get("method.target", "none") == "none"
    assert overrides.get("epochs.name", "none") == "none"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean epochs?"),
        ({"optimizer": {"learning": 3}}, r"unknown setting 'optimizer\.learning'"),
        ({"method": "byol"}, "setting 'method' must be a group of settings, got 'byol'"),
        ({"epochs": "three"}, "epochs must be a finite number, got 'three'"),
        ({"method": {"target": "lve"}}, "method.target must be stop_gradient or momentum or gradient"),
    ],
)
def test_overrides_that_cannot_be_applied_are_named(given, says):
    with pytest.raises(SettingsError, match=says):
        Overrides(given).over(Settings())
