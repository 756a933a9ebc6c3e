"""How training scales with the number of processes: python -m tests.benchmarks.scaling --processes 1 2 4

Strong scaling splits one batch among the processes; weak scaling gives each process a full batch. Steps with and
without the all-reduce of gradients alternate; the difference of their medians is the cost of communication. The ratio
of images per second and process to the first row is the efficiency.
"""

import argparse
import itertools
import json
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.measuring import Measured, report

SHAPE, CLASSES = (3, 32, 32), 10


def blocks() -> list[nn.Module]:
    """`[N, 3, 32, 32]` → `[N, 128, 4, 4]`"""
    sizes = itertools.pairwise([3, 32, 64, 128])
    return [
        layer
        for a, b in sizes
        for layer in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
    ]


def measure(rank: int, processes: int, batch: int, steps: int, folder: str) -> None:
    """Train one rank; rank 0 writes the seconds of each step, with the all-reduce and without."""
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(*blocks(), nn.Flatten(), nn.Linear(128 * 16, CLASSES))
    model = DistributedDataParallel(net.to(device))
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, labels = torch.randn(batch, *SHAPE, device=device), torch.randint(CLASSES, (batch,), device=device)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for step in range(2 * (steps + 3)):
        reduces = step % 2 == 0
        dist.barrier()
        began = time.perf_counter()
        with nullcontext() if reduces else model.no_sync():
            nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 6:  # the first steps allocate
            seconds[reduces].append(time.perf_counter() - began)
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps([seconds[True], seconds[False]]))
    dist.destroy_process_group()


def run(kind: str, processes: int, batch: int, steps: int) -> dict[str, list[float]]:
    """Figures of each step of rank 0."""
    per_rank = batch // processes if kind == "strong" else batch
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (processes, per_rank, steps, folder), nprocs=processes)
        with_reduce, without_reduce = json.loads(Path(folder, "seconds.json").read_text())
    return {
        "ms a step": [1000 * seconds for seconds in with_reduce],
        "ms a step without all-reduce": [1000 * seconds for seconds in without_reduce],
        "images/s": [per_rank * processes / seconds for seconds in with_reduce],
        "images/s and process": [per_rank / seconds for seconds in with_reduce],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for kind in ("strong", "weak"):
        measured: Measured = {
            f"processes={processes}": run(kind, processes, options.batch, options.steps)
            for processes in options.processes
        }
        report(f"{kind} scaling", measured, device=device, batch=options.batch, steps=options.steps)


if __name__ == "__main__":
    main()
