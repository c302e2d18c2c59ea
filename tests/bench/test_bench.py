"""`siam bench`: its output, and the verdict for given rates."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from siam.bench import stages
from siam.bench.verdict import Rates, find_bottleneck
from siam.cli import command as cli
from tests.conftest import TINY, run_cli

GPU = Rates(
    device="cuda", cores=16, workers=8, decode=900.0, worker=600.0, transfer=20000.0, augment=9000.0,
    step=1500.0,
)  # fmt: skip
CPU = replace(GPU, device="cpu", cores=4, workers=2, transfer=None, augment=300.0, step=50.0)
PHOTOGRAPH = 500 * 375


def test_on_a_gpu_the_slowest_stage_sets_the_rate():
    verdict = find_bottleneck(GPU, PHOTOGRAPH, 224)
    assert verdict.bottleneck == "device"
    assert verdict.pairs_per_second == pytest.approx(1 / (1 / 9000 + 1 / 1500))


def test_with_too_few_workers_the_advice_gives_a_sufficient_number():
    verdict = find_bottleneck(replace(GPU, workers=2), PHOTOGRAPH, 224)
    assert (verdict.bottleneck, verdict.pairs_per_second) == ("workers", 1200.0)
    assert "--loader.workers 3" in verdict.advice  # 3 x 600 is above the device's 1286


def test_more_workers_are_not_advised_once_every_core_decodes():
    slow = replace(GPU, workers=16, decode=40.0, worker=35.0)
    verdict = find_bottleneck(slow, 4000 * 3000, 224)
    assert (verdict.bottleneck, verdict.pairs_per_second) == ("decode", 560.0)
    assert "12.0 megapixels" in verdict.advice
    assert "megapixels" not in find_bottleneck(slow, PHOTOGRAPH, 224).advice


def test_a_slow_link():
    verdict = find_bottleneck(replace(GPU, transfer=800.0), PHOTOGRAPH, 224)
    assert (verdict.bottleneck, verdict.pairs_per_second) == ("transfer", 800.0)


def test_on_a_cpu_the_stages_share_the_cores():
    verdict = find_bottleneck(CPU, PHOTOGRAPH, 224)
    assert verdict.bottleneck == "device"
    assert verdict.pairs_per_second == pytest.approx(1 / (1 / 300 + 1 / 50 + 1 / (4 * 600)))
    assert "a GPU" in verdict.advice
    assert find_bottleneck(replace(CPU, decode=10.0, worker=9.0), PHOTOGRAPH, 224).bottleneck == "workers"
    assert (
        find_bottleneck(replace(CPU, decode=10.0, worker=9.0, workers=4), PHOTOGRAPH, 224).bottleneck
        == "decode"
    )


def test_without_workers_nothing_is_prefetched():
    verdict = find_bottleneck(replace(GPU, workers=0), PHOTOGRAPH, 224)
    assert verdict.bottleneck == "workers"
    assert verdict.pairs_per_second < 600


def test_a_cached_set_needs_no_workers():
    resident = replace(GPU, workers=0, decode=None, worker=None, transfer=None)
    assert find_bottleneck(resident, 32 * 32, 32).bottleneck == "device"
    assert "color augmentation" in find_bottleneck(replace(resident, augment=1000.0), 32 * 32, 32).advice


def test_bad_input_is_an_error_of_one_line(capsys, tmp_path):
    for args, says in (
        ([str(tmp_path / "nowhere")], "nowhere"),
        (["--batch", "3"], "unknown setting '--batch'"),
        (["--backbone", "resnet51"], "unknown backbone"),
        (["--device", "cuda:7"], "not available"),
    ):
        assert cli.main(["bench", *args]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert says in err
        assert len([line for line in err.splitlines() if line.startswith("siam: ")]) == 1


def test_a_folder_is_measured_with_the_given_settings(capsys, photos, monkeypatch):
    """With a clock that advances half a second at each reading: after each call of a stage, and at the end.

    So 2 seconds are 4 calls, and 2.5 seconds have passed at the end. A call takes 16 images in a worker, and
    a batch on the device. All stages together are measured for 4 seconds.
    """
    seconds = itertools.count(0, 0.5)
    monkeypatch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    assert cli.main(["bench", str(photos), *quick("--loader.cache", "none"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["backbone"], result["size"], result["batch_size"]) == ("resnet10t", 16, 8)
    rates = result["rates"]
    assert rates["decode"] == rates["worker"] == 4 * 16 / 2.5
    assert rates["augment"] == rates["step"] == 4 * 8 / 2.5
    assert rates["transfer"] is None
    assert result["end_to_end"] == 8 * 8 / 4.5
    assert result["verdict"]["bottleneck"] == "workers", "there are none"
    assert result["verdict"]["pairs_per_second"] == pytest.approx(1 / (2.5 / 64 + 2.5 / 32 + 2.5 / 32))
    assert result["machine"]["torch"]


@pytest.mark.slow
def test_the_demo_set_as_a_table():
    done = run_cli("bench", *quick(), check=0)
    assert "training step, batch 8, float32" in done.stdout
    assert "all together, measured" in done.stdout
    assert "one worker" not in done.stdout  # it is resident
    assert "bottleneck: device" in done.stdout


def quick(*more):
    return [*TINY, "--loader.workers", "0", *more]
