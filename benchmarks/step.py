"""One training step: ours (bf16 where the machine has it, channels last) against plain float32 NCHW.

    python benchmarks/step.py [--cases resnet18:32:128 resnet50:224:32 ...] [--rounds 5] [--out FILE]

A case is BACKBONE:SIZE:BATCH. Both train on the same views, which are already on the device, each in its own
process. Further columns: the percentage of the rate of a large matrix product on this machine in our
precision (with the step's FLOPs as PyTorch counts them), and the peak of memory.
"""

import time
from dataclasses import replace
from typing import Any

import torch
from measure import (
    Candidate,
    alternating,
    arguments,
    in_own_process,
    in_own_processes,
    memory_mb,
    report,
    reset_peak,
    save,
)
from torch.utils.flop_counter import FlopCounterMode
from training import TrainOn, our_step, plain_device, published_step, random_views, settings_for, wait

from siam.settings.pretraining import Settings
from siam.system.device import find_device, tune_process, uses_bf16

PLAIN, OURS, COMPILED = "float32 NCHW", "ours", "ours, compiled"


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--cases", nargs="+", default=["resnet18:32:128", "resnet18:224:32"])
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--compile", action="store_true", help="also the compiled step")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = find_device(args.device)
    tune_process(device)
    peak = matrix_peak(device, uses_bf16("auto", device))
    print(f"a large matrix product: {peak / 1e12:.3g} Tflop/s")
    names = [PLAIN, OURS] + ([COMPILED] if args.compile else [])
    parts = [measure(case, names, args.steps, args.rounds, device, peak) for case in args.cases]
    save(args.out, parts, matrix_peak_tflops=peak / 1e12, threads=torch.get_num_threads())


def measure(
    case: str, names: list[str], steps: int, rounds: int, device: torch.device, peak: float
) -> dict[str, Any]:
    memory = {name: in_own_process(peak_mb, name, case, str(device)) for name in names}
    with in_own_processes((turn, (name, case, steps, str(device))) for name in names) as turns:
        rates = alternating(turns, rounds)
    flops = flops_per_pair(case, device)
    share = {name: 100 * rate * flops / peak for name, rate in rates.items()}
    backbone, size, batch = case.split(":")
    more = {"% of the matrix product's rate": share, "peak MB": memory}
    return report(f"SimSiam step, {backbone}, {size} px, batch {batch}", "pairs/s", rates, PLAIN, more)


def settings_of(case: str) -> Settings:
    backbone, size, batch = case.split(":")
    return settings_for(backbone, int(size), int(batch))


def build(name: str, case: str, device_name: str) -> tuple[TrainOn, torch.memory_format, torch.device]:
    settings = settings_of(case)
    if name == PLAIN:
        device = plain_device(device_name)
        return published_step(settings, device), torch.contiguous_format, device
    device = find_device(device_name)
    tune_process(device)
    return our_step(replace(settings, compile=name == COMPILED), device), torch.channels_last, device


def turn(name: str, case: str, steps: int, device_name: str) -> dict[str, Candidate]:
    step, layout, device = build(name, case, device_name)
    x1, x2 = random_views(settings_of(case), device, layout)

    def run() -> int:
        for _ in range(steps):
            step(x1, x2)
        wait(device)
        return steps * len(x1)

    return {name: run}


def peak_mb(name: str, case: str, device_name: str) -> int:
    """Return the peak memory of two steps in MB, with weights and views; on a CPU without libraries."""
    before = memory_mb("VmRSS")
    run = turn(name, case, 2, device_name)[name]
    if device_name.startswith("cuda"):
        run()
        return torch.cuda.max_memory_allocated() // 2**20
    reset_peak()
    run()
    return memory_mb("VmHWM") - before


def flops_per_pair(case: str, device: torch.device) -> float:
    """Return the FLOPs of a pair, forward and backward, as PyTorch counts convolutions and products."""
    settings = replace(settings_of(case), batch_size=4, precision="float32")
    step = our_step(settings, device)
    with FlopCounterMode(display=False) as counter:
        step(*random_views(settings, device, torch.channels_last))
    return counter.get_total_flops() / settings.batch_size


def matrix_peak(device: torch.device, bf16: bool) -> float:
    """Return the FLOP/s of a large square matrix product, the best of several."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


if __name__ == "__main__":
    main()
