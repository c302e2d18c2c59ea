"""Settings: round trips through plain values, errors that name the setting, recipes, and no torch."""

import subprocess
import sys
from dataclasses import replace
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siam import recipes
from siam.errors import SettingsError
from siam.methods import METHODS
from siam.settings.checks import Rule
from siam.settings.method import Method
from siam.settings.plain import differences, from_dict, to_dict
from siam.settings.pretraining import (
    CheckpointSettings,
    LoaderSettings,
    MonitorSettings,
    OptimizerSettings,
    Settings,
    ViewSettings,
)
from siam.transfer.settings import TransferSettings


@given(
    st.builds(
        Settings,
        epochs=st.integers(1, 1000),
        batch_size=st.integers(2, 4096),
        seed=st.integers(0, 2**31),
        views=st.builds(ViewSettings, hue=st.floats(0, 0.5), size=st.integers(8, 512)),
        optimizer=st.builds(OptimizerSettings, lr=st.floats(1e-6, 10)),
    )
)
def test_settings_round_trip_through_plain_values(settings):
    assert from_dict(to_dict(settings)) == settings


def test_an_unknown_setting_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown setting 'optimizer\.learning'"):
        from_dict({"optimizer": {"learning": 1}})
    with pytest.raises(SettingsError, match="did you mean epochs"):
        from_dict({"epoch": 1})
    with pytest.raises(SettingsError, match="must be a group"):
        from_dict({"optimizer": 3})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Settings(epochs=0), "epochs must be above 0"),
        (lambda: Settings(batch_size=1), "batch_size must be at least 2"),
        (lambda: Settings(seed=-1), "seed must not be negative"),
        (lambda: Settings(width=0), "width must be above 0"),
        (
            lambda: Settings(method=replace(METHODS["moco_v2"], queue=256)),
            "queue must be larger than batch_size",
        ),
        (lambda: Settings(method=replace(METHODS["moco_v2"], target="gradient")), "cannot be 'gradient'"),
        (lambda: Settings(devices=-1), "devices must not be negative, got -1"),
        (lambda: Settings(timeout="10"), "timeout must be a time such as 90s, 10m, 2h or 1d, got '10'"),
        (lambda: ViewSettings(scale=(0.5, 0.2)), r"views\.scale must be in ascending order, got 0\.5 0\.2"),
        (lambda: ViewSettings(scale=(0.0, 0.2)), r"views\.scale must be above 0, got 0 0\.2"),
        (lambda: ViewSettings(scale=(0.5, 1.2)), r"views\.scale must lie in \[0, 1\], got 0\.5 1\.2"),
        (lambda: ViewSettings(hue=0.7), r"views\.hue must lie in \[0, 0\.5\] turns, got 0\.7"),
        (lambda: ViewSettings(blur_p=1.1), r"views\.blur_p must lie in \[0, 1\], got 1\.1"),
        (lambda: ViewSettings(contrast=-0.1), r"views\.contrast must not be negative, got -0\.1"),
        (lambda: ViewSettings(blur_sigma=(0.0, 1.0)), r"views\.blur_sigma must be above 0, got 0 1"),
        (lambda: ViewSettings(size=4), r"views\.size must be at least 8 pixels, got 4"),
        (lambda: OptimizerSettings(lr=0), r"optimizer\.lr must be above 0, got 0"),
        (lambda: OptimizerSettings(momentum=1.0), r"optimizer\.momentum must be below 1, got 1\.0"),
        (lambda: OptimizerSettings(weight_decay=-1), r"optimizer\.weight_decay must not be negative, got -1"),
        (lambda: LoaderSettings(workers=-2), r"loader\.workers must be at least -1 \(automatic\), got -2"),
        (lambda: MonitorSettings(knn_k=0), r"monitor\.knn_k must be at least 1, got 0"),
        (lambda: CheckpointSettings(keep=0), r"checkpoint\.keep must be at least 1, got 0"),
        (lambda: CheckpointSettings(every="0m"), r"checkpoint\.every must be a time such as"),
        (lambda: CheckpointSettings(every="10m,0"), r"checkpoint\.every must be above 0, got 0"),
    ],
)
def test_invalid_settings_fail_when_built_and_are_named(build, says):
    with pytest.raises(SettingsError, match=says):
        build()


def test_settings_and_the_names_of_objectives_need_no_torch():
    code = (
        "import sys, siam.objectives, siam.transfer.settings; "
        "from siam.settings.pretraining import Settings; "
        "Settings(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_differences_are_named_with_both_values():
    other = Settings(epochs=5, optimizer=OptimizerSettings(lr=0.1))
    assert differences(Settings(), other) == ["epochs (100 and 5)", "optimizer.lr (0.05 and 0.1)"]


@pytest.mark.parametrize(("side", "recipe"), [(28, "cifar10"), (96, "imagenette"), (400, "imagenet")])
def test_without_a_recipe_the_image_size_selects_one(side, recipe):
    start = recipes.starting_point(None, "simsiam", "photos", side, 10**6)
    assert start.backbone == recipes.RECIPES[recipe].backbone
    assert start.optimizer == recipes.RECIPES[recipe].optimizer


def test_a_small_set_gets_a_batch_with_several_steps_an_epoch():
    assert recipes.starting_point(None, "simsiam", "photos", 400, 240).batch_size == 32
    assert recipes.starting_point(None, "simsiam", "photos", 400, 2).batch_size == 2


def test_simsiam_has_the_published_settings():
    """Sec. 3 and the released code."""
    start = recipes.starting_point("imagenet", "simsiam", "imagenet", 400, 1_281_167)
    assert (start.backbone, start.epochs, start.batch_size, start.views.size) == ("resnet50", 100, 256, 224)
    assert (start.optimizer.lr, start.optimizer.momentum, start.optimizer.weight_decay) == (0.05, 0.9, 1e-4)
    assert (start.method.dim, start.method.projector_layers, start.method.predictor_hidden) == (
        2048,
        3,
        512,
    )


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (
            {"method": {"target": "liv"}},
            "method.target must be stop_gradient or momentum or gradient, got 'liv'",
        ),
        ({"method": {"batch_norm": "defualt"}}, "got 'defualt'; did you mean default?"),
        ({"method": {"momentum": "0.9"}}, "method.momentum must be a finite number, got '0.9'"),
        ({"method": {"temperature": float("inf")}}, "method.temperature must be a finite number"),
        ({"method": {"prototypes": 2.5}}, "method.prototypes must be a whole number, got 2.5"),
        ({"method": {"objective": "moving_average", "symmetry": "asymmetric"}}, "method.symmetry"),
        ({"method": {"objective": "moving_average", "target": "gradient"}}, "target cannot be 'gradient'"),
        ({"optimizer": {"name": "adam"}}, "optimizer.name must be sgd or lars, got 'adam'"),
        ({"views": {"scale": 0.5}}, "views.scale must be 2 numbers, got 0.5"),
        ({"views": {"scale": [0.5]}}, "views.scale must be 2 numbers"),
        ({"precision": "fp16"}, "precision must be auto or float32 or bf16"),
        ({"epochs": "1"}, "epochs must be a finite number, got '1'"),
        ({"epochs": True}, "epochs must be a finite number, got True"),
        ({"sync_bn": 1}, "sync_bn must be true or false, got 1"),
        ({"method": 3}, "method' must be a group of settings, got 3"),
    ],
)
def test_values_must_match_their_annotations(plain, says):
    """From Python and settings.yaml as well as from the command line."""
    with pytest.raises(SettingsError) as refused:
        from_dict(plain)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "kind",
    [ViewSettings, Method, OptimizerSettings, LoaderSettings, MonitorSettings, CheckpointSettings, Settings,
     TransferSettings],
)  # fmt: skip
def test_every_number_has_a_range(kind):
    for name, hint in get_type_hints(kind, include_extras=True).items():
        kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if kind in (int, float) or get_origin(kind) is tuple:
            assert any(isinstance(rule, Rule) for rule in rules), name


def test_small_sets_get_batches_of_at_least_eight_if_possible():
    for size, batch in ((2, 2), (5, 4), (12, 8), (40, 8), (100, 16), (10**6, 256)):
        assert recipes.starting_point(None, "simsiam", "photos", 224, size).batch_size == batch
