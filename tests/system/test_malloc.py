"""Memory of a training step, compared between methods, and the reuse of freed memory."""

import os
import subprocess
import sys

import pytest

STEP = """
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from siam.network import Network
from siam.objectives import build_objective
from siam.recipes import PUBLISHED
from siam.settings.pretraining import OptimizerSettings
from siam.train.optimizer import build_optimizer

def mb(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024

def step(network, objective, optimizer, batch):
    loss = objective(*network(*(torch.randn(batch, 3, 64, 64) for _ in range(2))))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step()
    network.update_target(0.99)

def measure(name):
    torch.manual_seed(0)
    published, _ = PUBLISHED[name]
    method = replace(published, projector_layers=2, dim=128, batch_norm="default")  # the same heads for all
    before = mb("VmRSS")
    network, objective = Network(method, "resnet18", 64), build_objective(method)
    optimizer = build_optimizer(OptimizerSettings(), network, objective, 128)
    step(network, objective, optimizer, 2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    # A small one, in which the copy of the encoder and the scores of the keys weigh most.
    step(network, objective, optimizer, 64)
    own = sum(t.numel() * t.element_size() for t in objective.state_dict().values()) / 2**20
    print(name, mb("VmHWM") - before, own)

torch.set_num_threads(1)
for name in sys.argv[1:]:
    if os.fork() == 0:  # each in a process of its own, which need not import torch again
        measure(name)
        sys.exit()
    os.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_step_of_moco_or_swav_takes_little_more_than_one_of_simsiam():
    done = subprocess.run(
        [sys.executable, "-c", STEP, "simsiam", "moco_v2", "swav"],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # freed is free: the heap has no holes
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name: (float(peak), float(own)) for name, peak, own in map(str.split, done.stdout.splitlines())}
    simsiam, _ = found["simsiam"]
    for method in ("moco_v2", "swav"):
        peak, own = found[method]
        assert own > 1
        assert peak < 1.15 * simsiam + own, (method, peak, own, simsiam)


FREED = """
import resource

import torch

from siam.system.device import find_device, tune_process

def pages_fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (64, 16, 40, 64):  # MB, none of them small enough for glibc to keep by itself
        torch.ones(size * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

device = find_device("cpu")
for _ in range(10):
    by_default = pages_fetched()
tune_process(device)
for _ in range(10):  # until there is a place for each
    pages_fetched()
print(by_default, pages_fetched())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_kept_for_the_next_step_once_the_process_is_tuned():
    """Finding a device changes nothing."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert by_default > 10_000
    assert kept < 100
