"""Plans for sets and machines of every kind: none is absurd."""

import json

import pytest

from siam.errors import SettingsError
from siam.plan.machine import DescribedMachine, Speed, read_machine
from siam.plan.plan import Dataset, make_plan, planned_seconds
from siam.plan.rules import LARGE, MAX_EPOCHS, SMALL
from siam.recipes import CIFAR10
from siam.settings.overrides import Overrides
from tests.conftest import run_cli

LAPTOP = DescribedMachine("cpu", gflops=150, images_per_second=800)
GPU = DescribedMachine("cuda", gflops=60_000, images_per_second=8000)
MINUTE, HOUR = 60.0, 3600.0


def plan(images, side, seconds, machine=LAPTOP, **overrides):
    return make_plan(Dataset("photos", images, side), machine, seconds, Overrides(overrides))


def network(planned):
    s = planned.settings
    return s.backbone, s.width, s.views.size, s.batch_size


def test_twenty_images_end_early():
    """More than 1,000 passes over 20 images teach nothing: 5 steps of 4 images... in a minute, not in 30."""
    planned = plan(20, 300, 30 * MINUTE)
    assert planned.settings.batch_size == 8
    assert planned.settings.epochs == MAX_EPOCHS
    assert planned.settings.time_limit == ""
    assert planned.seconds < 5 * MINUTE
    assert "more time changes nothing" in planned.twice


def test_five_hundred_images():
    planned = plan(500, 300, 30 * MINUTE)
    assert network(planned) == ("resnet10t", 0.25, 48, 64)
    assert 100 < planned.settings.epochs <= MAX_EPOCHS


def test_a_million_small_files_are_not_seen_once():
    planned = plan(1_000_000, 32, 30 * MINUTE)
    assert planned.settings.views.size == 32
    assert 0.05 < planned.settings.epochs < 1
    assert planned.steps > 1000


def test_large_photographs_get_small_views_on_a_cpu():
    """12-megapixel photographs, one of which takes 50 ms to read and crop."""
    slow = DescribedMachine("cpu", gflops=150, images_per_second=20)
    planned = plan(5000, 3000, 30 * MINUTE, slow)
    assert planned.settings.views.size == 48
    assert planned.pairs_per_second == 20
    assert 5 < planned.settings.epochs < 8


def test_a_gpu_gets_a_large_network():
    planned = plan(1_281_167, 375, 48 * HOUR, GPU)
    assert network(planned) == ("resnet50", 1.0, 224, 256)
    assert planned.settings.optimizer.lr == 0.05 or planned.settings.method.name != "simsiam"


def test_more_time_never_means_a_smaller_network():
    for rows, side in ((SMALL, 32), (LARGE, 400)):
        order = [(row.backbone, row.width, row.size) for row in rows]
        chosen = [
            order.index(network(plan(10**6, side, hours * HOUR, GPU))[:3])
            for hours in (0.1, 0.5, 2, 10, 50, 250)
        ]
        assert chosen == sorted(chosen)
        assert chosen[0] < chosen[-1]


def test_views_are_not_larger_than_the_images():
    planned = plan(100_000, 60, 1000 * HOUR, GPU)
    assert planned.settings.views.size <= 60


def test_the_length_fills_the_time():
    """150 GFLOP/s and 0.438 GFLOP a pair: 342 pairs/s, less 15 s at the start and 5 % for measurements."""
    planned = plan(5000, 300, 10 * MINUTE)
    assert planned.pairs_per_second == pytest.approx(150 / (6 * 0.073))
    assert planned.steps == int(0.95 * (600 - 15) * planned.pairs_per_second / 64)
    assert planned.settings.time_limit == "600s"


def test_measurements_take_little_of_the_time():
    """500 images are a pass of 1.5 s: measuring after each would double the time."""
    planned = plan(500, 300, 30 * MINUTE)
    passes = 500 / planned.pairs_per_second
    assert planned.settings.monitor.every * passes > 30


def test_settings_of_the_user_are_kept():
    planned = plan(5000, 300, HOUR, batch_size=16, method={"name": "byol"}, views={"size": 40})
    assert (planned.settings.batch_size, planned.settings.views.size) == (16, 40)
    assert (planned.settings.method.name, planned.settings.method.target) == ("byol", "momentum")


def test_a_recipe_is_only_given_its_length():
    planned = make_plan(Dataset("cifar10", 50_000, 32), GPU, HOUR, Overrides(), CIFAR10)
    assert planned.settings.views == CIFAR10.views
    assert planned.settings.method == CIFAR10.method
    assert planned.settings.time_limit == "3600s"


class Measured(DescribedMachine):
    def measure(self, settings):
        return Speed(pairs_per_second=100.0, reading=60.0, precision="bf16")


def test_what_is_measured_counts():
    """100 pairs/s, and a minute to read all images first."""
    planned = plan(5000, 300, 10 * MINUTE, Measured("cpu", 150))
    assert planned.steps == pytest.approx(0.95 * (600 - 60 - 15) * 100 / 64, abs=1)
    assert planned.settings.precision == "bf16"


def test_lines_say_what_will_happen():
    lines = list(plan(5000, 300, 10 * MINUTE).lines())
    assert lines[0].startswith("plan: ")
    assert "resnet10t x 0.25, views of 48 px, batches of 64" in lines[0]
    assert "342 pairs/s: 2,973 steps, 38.1 passes over 5,000 images; done in 10 min, at " in lines[1]
    assert "twice the time: " in lines[2]


def test_too_short_a_time_says_what_is_possible():
    slow = DescribedMachine("cpu", gflops=1)
    with pytest.raises(
        SettingsError, match=r"90 s is too short: .* 20 steps take 10 min here, .* at least 11m"
    ):
        plan(5000, 300, 90, slow)


@pytest.mark.parametrize(
    ("given", "words"),
    [("0", "90s, 10m, 2h or 1d"), ("0m", "90s, 10m"), ("3s", "too short"), ("soon", "'soon'")],
)
def test_impossible_times_are_refused(given, words):
    with pytest.raises(SettingsError, match=words):
        planned_seconds(given, "cpu")


def test_default_times():
    assert planned_seconds(None, "cpu") == 30 * MINUTE
    assert planned_seconds(None, "cuda") == 2 * HOUR
    assert planned_seconds("1d", "cpu") == 24 * HOUR


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "does not describe a machine"),
        ("[]", "does not describe a machine"),
        ('{"device": "cuda"}', "does not describe a machine"),
        (
            '{"device": "tpu", "gflops": 1, "images_per_second": 1}',
            "device in .* must be cpu, cuda or mps, got 'tpu'",
        ),
        ('{"device": "cpu", "gflops": 0, "images_per_second": 1}', "must be above 0"),
        ('{"device": "cpu", "gflops": NaN, "images_per_second": 1}', "must be above 0"),
    ],
)
def test_bad_machine_files_are_one_sentence(tmp_path, text, words):
    file = tmp_path / "machine.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_machine(file)


def test_the_verb_plans_for_a_described_machine(photos, tmp_path):
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"device": "cuda", "gflops": 60_000, "images_per_second": 4000}))
    done = run_cli("plan", photos, "--machine", file, "--for", "2h", "--json", check=0)
    planned = json.loads(done.stdout)
    assert planned["epochs"] == MAX_EPOCHS
    assert planned["batch_size"] == 8


def test_for_and_epochs_exclude_each_other(photos):
    done = run_cli("pretrain", photos, "--for", "10m", "--epochs", 3, check=2)
    assert "--for and --epochs both set the length" in done.stderr
