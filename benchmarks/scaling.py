"""Weak scaling on one machine: the same number of images per process, with one process and with several.

Each process has one thread, so on a machine with a free core for each process, two processes ideally double
the throughput. Rounds alternate, and medians are compared. With `--count`, counts the communication of a step
instead: calls and bytes of each collective, without timing.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import replace

import torch
import torch.distributed as dist

from siam.methods import METHODS
from siam.network import Network
from siam.objectives import build_objective
from siam.processes.data_parallel import average_gradients, data_parallel
from siam.processes.launch import launch
from siam.processes.rendezvous import process_group
from siam.recipes import published
from siam.system.environment import environment


def steps(args, sync_bn, count):
    """Return the seconds of each step after the first three; with `count`, the communication of one step."""
    torch.set_num_threads(1)
    with process_group("cpu", 600):
        torch.manual_seed(0)
        method = replace(published(args.method)[0], queue=4096)
        network = Network(method, args.backbone, args.size)
        objective = build_objective(method)
        forward = data_parallel(network, torch.device("cpu"), sync_bn)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        layout = torch.channels_last
        views = [torch.randn(args.batch, 3, args.size, args.size).to(memory_format=layout) for _ in range(2)]
        counted = Counter()
        if count:
            count_collectives(counted)
        times = []
        for _ in range(2 if count else args.steps + 3):
            counted.clear()
            started = time.perf_counter()
            loss = objective(*forward(*views))
            optimizer.zero_grad()
            loss.backward()
            average_gradients(objective)
            optimizer.step()
            objective.after_step()
            network.update_target(0.99)
            times.append(time.perf_counter() - started)
        gradients = sum(p.numel() * 4 for p in network.parameters() if p.requires_grad)
        return {"gradients": gradients, **counted} if count else times[3:]


def count_collectives(counted):
    """Count calls and bytes of the collectives that Siam calls itself, in `counted`."""
    for name in ("all_gather", "all_reduce", "reduce_scatter"):
        original = getattr(dist, name)

        def counting(*tensors, _name=name, _original=original, **options):
            own = tensors[0] if _name == "all_reduce" else tensors[1]
            own = sum(t.numel() * t.element_size() for t in (own if isinstance(own, list) else [own]))
            counted[f"{_name} calls"] += 1
            counted[f"{_name} bytes"] += own
            return _original(*tensors, **options)

        setattr(dist, name, counting)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="simsiam", choices=list(METHODS))
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="images per process")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--count", action="store_true")
    args = parser.parse_args()
    if args.count:
        print(json.dumps(launch(2, steps, args, True, True)))
        return
    cases = {
        "one": (1, True),
        "synchronized": (args.processes, True),
        "unsynchronized": (args.processes, False),
    }
    times = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, (processes, sync_bn) in cases.items():
            times[name] += launch(processes, steps, args, sync_bn, False)
    median = {name: statistics.median(values) for name, values in times.items()}
    result = {
        **environment(), **vars(args), "seconds_per_step": median,
        "pairs_per_second": {name: args.batch * cases[name][0] / value for name, value in median.items()},
        "efficiency": {name: median["one"] / value for name, value in median.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    from scaling import main  # under this name the launched processes find `steps`

    main()
