"""`siam bench`: what it prints, and the verdict that follows from given rates."""

import json
from dataclasses import replace

import pytest

from siam.bench.verdict import Rates, find_bottleneck
from siam.cli import command as cli
from tests.conftest import TINY, siam

GPU = Rates(
    device="cuda", cores=16, workers=8, decode=900.0, worker=600.0, transfer=20000.0, augment=9000.0,
    step=1500.0,
)  # fmt: skip
CPU = replace(GPU, device="cpu", cores=4, workers=2, transfer=None, augment=300.0, step=50.0)
PHOTOGRAPH = 500 * 375


def test_beside_a_gpu_the_slowest_stage_sets_the_pace():
    verdict = find_bottleneck(GPU, PHOTOGRAPH, 224)
    assert verdict.bottleneck == "device"
    assert verdict.pairs_per_second == pytest.approx(1 / (1 / 9000 + 1 / 1500))


def test_too_few_workers_are_told_how_many_would_do():
    verdict = find_bottleneck(replace(GPU, workers=2), PHOTOGRAPH, 224)
    assert (verdict.bottleneck, verdict.pairs_per_second) == ("workers", 1200.0)
    assert "--loader.workers 3" in verdict.advice  # 3 x 600 is above the device's 1286


def test_where_every_core_decodes_already_more_workers_are_no_advice():
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


def test_without_workers_nothing_is_made_ahead():
    verdict = find_bottleneck(replace(GPU, workers=0), PHOTOGRAPH, 224)
    assert verdict.bottleneck == "workers"
    assert verdict.pairs_per_second < 600


def test_a_resident_set_has_no_workers():
    resident = replace(GPU, workers=0, decode=None, worker=None, transfer=None)
    assert find_bottleneck(resident, 32 * 32, 32).bottleneck == "device"
    assert "colors" in find_bottleneck(replace(resident, augment=1000.0), 32 * 32, 32).advice


def test_bad_input_is_one_plain_line(capsys, tmp_path):
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


def test_a_folder_is_measured_with_the_users_settings(capsys, photos):
    assert cli.main(["bench", str(photos), *quick("--loader.cache", "none"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["backbone"], result["size"], result["batch_size"]) == ("resnet10t", 16, 8)
    rates = result["rates"]
    for stage in ("decode", "worker", "augment", "step"):
        assert rates[stage] > 0, stage
    assert rates["transfer"] is None
    assert result["end_to_end"] > 0
    assert result["verdict"]["bottleneck"] in ("decode", "workers", "device")
    assert result["machine"]["torch"]


@pytest.mark.slow
def test_the_demo_set_as_a_table():
    done = siam("bench", *quick(), check=0)
    assert "training step, batch 8, float32" in done.stdout
    assert "all together, measured" in done.stdout
    assert "one worker" not in done.stdout  # it is resident
    assert "bottleneck: device" in done.stdout


def quick(*more):
    return [*TINY, "--loader.workers", "0", *more]
