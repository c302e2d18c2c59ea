"""Several processes train as one would: the same loss, gradients, state and order of images."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from siam.cli import command as cli
from siam.data.order import Order
from siam.errors import DataError, RunError, SettingsError
from siam.methods import METHODS
from siam.network import Network
from siam.objectives import build_objective
from siam.processes import agree
from siam.processes.batch_norm import SyncedBatchNorm, synchronize_batch_norm
from siam.processes.data_parallel import average_gradients, average_statistics, data_parallel
from siam.processes.gather import all_gather, local_shard, rank
from siam.processes.launch import how_many, launch
from siam.processes.rendezvous import process_group
from siam.runs.checkpoint import load_last
from siam.settings.pretraining import Settings
from tests.command import Command
from tests.conftest import TINY, run_cli
from tests.data.test_workers import of_session

SMALL = {
    "projector_layers": 2, "projector_hidden": 24, "dim": 16, "predictor_hidden": 8, "queue": 32,
    "prototypes": 6,
}  # fmt: skip

CASES = {
    **{name: {} for name in METHODS},
    "moving average": {"objective": "moving_average", "predictor": "none"},
    "two pairs of each image": {"symmetry": "asymmetric_2x"},
    "swav without stop-gradient": {
        "objective": "swapped_prediction",
        "predictor": "none",
        "target": "gradient",
    },
    "simclr in one direction": {"objective": "nt_xent", "predictor": "none", "symmetry": "asymmetric"},
}
BATCH, IMAGES = 12, 40


def two_steps(name):
    """Return losses, gradients and state of two steps on this process's share of each batch.

    Weights stay the same between the steps, so that only the state is carried over.
    """
    method = replace(METHODS.get(name, METHODS["simsiam"]), **CASES[name], **SMALL)
    torch.manual_seed(0)
    network = Network(method, "resnet10t", image_size=16, width=0.125)
    objective = build_objective(method, IMAGES)
    forward = data_parallel(network, torch.device("cpu"), sync_bn=True)
    result = {}
    for step in range(2):
        g = torch.Generator().manual_seed(step)
        views = [local_shard(torch.randn(BATCH, 3, 16, 16, generator=g)) for _ in range(4)]
        objective.before_step(local_shard(torch.randperm(IMAGES, generator=g)[:BATCH]), epoch=1)
        pairs = [views[:2], views[2:]] if method.symmetry == "asymmetric_2x" else [views[:2]]
        loss = torch.stack([objective(*forward(*pair)) for pair in pairs]).mean()
        network.zero_grad()
        objective.zero_grad()
        loss.backward()
        average_gradients(objective)
        objective.after_step()
        result[f"{step} loss"] = agree.all_reduce_mean(loss.detach())
        for part, module in (("network", network), ("objective", objective)):
            for key, p in module.named_parameters():
                if p.grad is not None:
                    result[f"{step} gradient of {part} {key}"] = p.grad.clone()
            for key, buffer in module.named_buffers():
                result[f"{step} buffer {part} {key}"] = buffer.clone()
    return result


def all_cases():
    torch.set_num_threads(1)
    with process_group("cpu", 60):
        return {name: {k: v.numpy() for k, v in two_steps(name).items()} for name in CASES}


@pytest.fixture(scope="module")
def halves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("siam.processes.launch._CONTEXT", Command.start)
        return launch(2, all_cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_half_the_batch_are_one_with_the_whole(halves, name):
    """Loss, every gradient, BN statistics, queue and averages, to 1e-5 in float32."""
    whole, half = two_steps(name), {key: torch.from_numpy(v) for key, v in halves[name].items()}
    assert whole.keys() == half.keys()
    assert any("gradient" in key for key in whole)
    for key, value in whole.items():
        scale = max(1.0, float(value.abs().max())) if value.is_floating_point() else 1.0
        assert torch.allclose(half[key], value, rtol=0, atol=1e-5 * scale), (
            f"{key}: {(half[key] - value).abs().max()}"
        )


def gathered():
    """Check d/dx of the sum over processes of w_r . all_gather(x): every process weights every row."""
    with process_group("cpu", 60):
        x = torch.full((2, 3), float(rank()), requires_grad=True)
        everything = all_gather(x)
        weights = torch.arange(12.0).view(4, 3) * (1 + rank())
        (everything * weights).sum().backward()
        flag = agree.AnyRankFlag()
        first, second = flag(rank() == 1, False), flag(False, False)
        flag.close()
        refused = ""
        try:
            agree.on_rank_zero(lambda: (_ for _ in ()).throw(DataError("the first says no")))
        except DataError as error:
            refused = str(error)
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean.fill_(float(rank()))
        average_statistics(norm)
        return {
            "statistics": norm.running_mean.tolist(),
            "refused": agree.all_gather_object(refused),
            "rows": everything.tolist(), "gradient": x.grad.tolist(), "flags": [first, second],
            "all_gather_object": agree.all_gather_object(rank()),
            "gather_uneven": agree.gather_uneven(torch.full((rank() + 1, 2), 7)).tolist(),
            "all_reduce_mean": agree.all_reduce_mean(torch.tensor([float(rank()), 4.0])).tolist(),
        }  # fmt: skip


def fails(how):
    with process_group("cpu", 5):
        if how == "one dies" and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "one refuses" and rank() == 1:
            raise DataError("the second says no")
        dist.barrier()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_collectives():
    found = launch(2, gathered)
    assert found["rows"] == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert found["gradient"] == (3 * torch.arange(6.0).view(2, 3)).tolist()  # weights 1 and 2
    assert found["flags"] == [(False, False), (True, False)]
    assert found["all_gather_object"] == [0, 1]
    assert found["statistics"] == [0.5, 0.5]
    assert found["refused"] == ["the first says no"] * 2
    assert found["gather_uneven"] == [[7, 7]] * 3
    assert found["all_reduce_mean"] == [0.5, 4.0]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_failing_process_ends_all_and_is_named():
    with pytest.raises(DataError, match="the second says no"):
        launch(2, fails, "one refuses")
    with pytest.raises(RunError, match="process 1 of 2 was killed by SIGKILL"):
        launch(2, fails, "one dies")


def meets(environment, said):
    """Say when this process is about to meet the other, and when it has; then wait to be killed."""
    os.environ.update(environment)
    said.send("here")
    with process_group("cpu", 30):
        dist.barrier()
        said.send("met")
        signal.pause()


def started_by_torchrun(number, store):
    """Start one of two processes. Return it, and the connection by which it speaks."""
    place = {"RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    receiver, sender = Command.start.Pipe(duplex=False)
    environment = {name: str(value) for name, value in place.items()}
    process = Command.start.Process(target=meets, args=(environment, sender))
    process.start()
    sender.close()
    return process, receiver


@pytest.mark.slow
@pytest.mark.parametrize("early", [0, 1])
def test_a_restarted_process_ignores_the_addresses_of_the_killed(early):
    """torchrun's store outlives the processes, so it still holds what the killed ones wrote."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in range(3):
        started = []
        for number in (early, 1 - early):
            started.append(started_by_torchrun(number, store))
            assert started[-1][1].recv() == "here"
            time.sleep(0.5)  # what it looks up at once, it has seen
        said = [receiver.recv() for _, receiver in started]
        for process, _ in started:
            process.kill()
            process.join()
        assert said == ["met"] * 2


def test_a_single_process_exchanges_nothing():
    x = torch.randn(3, 2)
    assert all_gather(x) is x
    assert torch.equal(local_shard(x), x)
    assert agree.all_gather_object(5) == [5]
    assert agree.gather_uneven(x) is x
    assert agree.AnyRankFlag()(True, False) == (True, False)
    with pytest.raises(DataError, match="no"):
        agree.on_rank_zero(lambda: (_ for _ in ()).throw(DataError("no")))


def test_synchronized_bn_keeps_names_parameters_and_activations():
    """Including timm's BN layers with an activation."""
    torch.manual_seed(0)
    network = Network(replace(METHODS["byol"], **SMALL), "mobilenetv3_small_050", image_size=32).eval()
    before, x = network.state_dict(keep_vars=True), torch.randn(3, 3, 32, 32)
    expected = network(x, x)
    synchronize_batch_norm(network, torch.device("cpu"))
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in after)
    assert all(torch.allclose(a, b) for a, b in zip(expected, network(x, x), strict=True))
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, SyncedBatchNorm) for norm in norms)


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_the_global_batch_does_not_depend_on_the_number_of_processes(processes):
    settings = Settings(epochs=2, batch_size=12, seed=3)
    alone = [indices for _, _, indices in Order(40, settings)]
    shares = [
        [indices for _, _, indices in Order(40, settings, rank=r, processes=processes)]
        for r in range(processes)
    ]
    assert len(alone) == 6
    for batch, *parts in zip(alone, *shares, strict=True):
        assert np.array_equal(batch, np.concatenate(parts))
    later = list(Order(40, settings).at((1, 2)))
    assert [(epoch, step) for epoch, step, _ in later] == [(1, 2)]
    assert np.array_equal(later[0][2], alone[5])


@pytest.mark.parametrize(
    ("devices", "device", "batch", "says"),
    [
        (3, "cpu", 32, "batch_size 32 cannot be split evenly across 3 processes"),
        (16, "cpu", 16, "at least 2 images for each"),
        (2, "cuda:1", 32, "requires --device cuda or cpu, got 'cuda:1'"),
    ],
)
def test_an_indivisible_batch_is_refused(devices, device, batch, says):
    with pytest.raises(SettingsError, match=says):
        how_many(devices, device, batch)


@pytest.mark.parametrize(("gpus", "batch", "expected"), [(0, 32, 1), (8, 256, 8), (6, 32, 4), (8, 6, 3)])
def test_gpus_that_divide_the_batch_are_used_by_default(monkeypatch, gpus, batch, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert how_many(0, "auto", batch) == expected
    assert how_many(0, "cpu", batch) == 1


def records(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def torchrun(processes, *args):
    """Return the command as a user of torchrun types it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["-m", "siam", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.mark.slow
def test_two_processes_train_the_same_as_one(classes, tmp_path):
    """With --devices and with torchrun: the losses of one process within rounding, one line of output an
    epoch, and a run that one process resumes with the same images."""
    flags = ["pretrain", classes, *TINY, "--device", "cpu", "--loader.cache", "none", "--loader.workers", 1]
    runs = {name: tmp_path / name for name in ("one", "two", "torchrun")}
    assert cli.main([*map(str, flags), "--out", str(runs["one"])]) == 0
    two = run_cli(*flags, "--devices", 2, "--out", runs["two"], "--json", check=0)
    assert json.loads(two.stdout)["steps"] == 6
    assert two.stderr.count("epoch   1") == 1
    done = torchrun(2, *flags, "--out", runs["torchrun"], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    losses = {name: [record["loss"] for record in records(run, "step")] for name, run in runs.items()}
    assert losses["two"] == losses["torchrun"]
    assert losses["two"][:3] == pytest.approx(losses["one"][:3], abs=1e-4)
    for kind, name in (("start", "untrained_knn"), ("start", "pixel_knn"), ("start", "val_images")):
        assert records(runs["two"], kind)[0][name] == pytest.approx(records(runs["one"], kind)[0][name])


@pytest.mark.slow
def test_embedding_is_shared_by_the_processes_of_torchrun(classes, tmp_path, monkeypatch):
    """Two processes write the same file as one, part by part and row by row."""
    import pyarrow.parquet as pq

    from siam.convert import vectors as embedding

    run = tmp_path / "run"
    assert cli.main(["pretrain", str(classes), *TINY, "--epochs", "1", "--out", str(run)]) == 0
    embedding.embed_to_parquet(run, classes, tmp_path / "one.parquet", "cpu", batch_size=1)
    done = torchrun(
        2, "embed", run, classes, "--out", tmp_path / "two.parquet", "--device", "cpu", "--batch-size", 1,
        "--workers", 0, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 36
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.column("path").equals(two.column("path"))
    ours, theirs = (np.stack(table.column("embedding").to_numpy()) for table in (one, two))
    assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_all_processes_stop_at_the_same_step_and_fewer_resume(classes, tmp_path):
    """After SIGTERM: status 75 and a complete checkpoint. One process then resumes the run of two, with the
    losses of an uninterrupted run within rounding."""
    flags = ["pretrain", classes, *TINY, "--device", "cpu", "--loader.cache", "none", "--epochs", 40]
    flags += ["--optimizer.lr", 0.001, "--monitor.knn-every", 0]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main([*map(str, flags), "--out", str(whole)]) == 0
    process = Command(*flags, "--devices", 2, "--out", run)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (run / "checkpoint.pt").exists():
        assert not process.ended(0.05), process.stderr
    process.signal(signal.SIGTERM)
    assert process.ended(60), process.stderr
    assert process.wait() == 75, process.stderr
    assert "continue with --resume" in process.stderr.strip().splitlines()[-1]
    stopped = len(records(run, "step"))
    assert 3 <= stopped < 120
    assert cli.main([*map(str, flags), "--devices", "1", "--out", str(run), "--resume"]) == 0
    ours, theirs = ([record["loss"] for record in records(r, "step")] for r in (run, whole))
    assert len(ours) == len(theirs) == 120
    assert ours == pytest.approx(theirs, abs=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
def test_processes_whose_parent_is_killed_save_and_end(photos, tmp_path):
    run = tmp_path / "run"
    flags = ["pretrain", photos, *TINY, "--device", "cpu", "--loader.cache", "none", "--epochs", 100_000]
    flags += ["--monitor.knn-every", 0, "--devices", 2, "--out", run]
    process = subprocess.Popen(
        [sys.executable, "-m", "siam", *map(str, flags)],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 200
        while not (run / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(of_session(process.pid)) >= 3
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while left := of_session(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    finally:
        for pid in of_session(process.pid):
            os.kill(pid, signal.SIGKILL)
    saved, complaint = load_last(run)
    assert not complaint
    assert saved["progress"]["step"] == len(records(run, "step"))
