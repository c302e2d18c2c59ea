"""One training step: ours (bf16 where the machine has it, channels last) against plain float32 NCHW.

python benchmarks/step.py [--backbone resnet18] [--size 32] [--batch-size 128] [--rounds 5] [--out FILE]
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from measure import alternating, report

from siam.methods import SIMSIAM
from siam.network import Network
from siam.objective import build_objective
from siam.settings import OptimizerSettings
from siam.train.device import pick_device, uses_bf16
from siam.train.optimizer import build_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = pick_device(args.device)
    bf16 = uses_bf16("auto", device)
    rates = alternating(
        {
            "float32 NCHW": step(args, device, bf16=False, layout=torch.contiguous_format),
            "ours": step(args, device, bf16=bf16, layout=torch.channels_last),
        },
        args.rounds,
    )
    title = f"SimSiam step, {args.backbone}, {args.size} px, batch {args.batch_size}"
    facts = {"bf16": bf16, "threads": torch.get_num_threads(), "steps": args.steps, "rounds": args.rounds}
    report(title, "pairs/s", rates, "float32 NCHW", args.out, **facts)


def step(
    args: argparse.Namespace, device: torch.device, bf16: bool, layout: torch.memory_format
) -> Callable[[], int]:
    """A function that trains for some steps on pairs that are already on the device."""
    torch.manual_seed(0)
    method = replace(SIMSIAM, projector_layers=2)
    network = Network(method, args.backbone, args.size).to(device, memory_format=layout)
    objective = build_objective(method)
    optimizer = build_optimizer(OptimizerSettings(), network, objective, args.batch_size)
    x1, x2 = (
        torch.randn(args.batch_size, 3, args.size, args.size, device=device).contiguous(memory_format=layout)
        for _ in range(2)
    )

    def run() -> int:
        for _ in range(args.steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = network(x1, x2)
            loss = objective(*outputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return args.steps * args.batch_size

    return run


if __name__ == "__main__":
    main()
