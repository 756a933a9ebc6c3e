"""How training scales with the number of processes: python -m tests.benchmarks.scaling --processes 1 2 4

Strong scaling shares one batch out, weak scaling gives each process a batch of its own. What the exchange of gradients
costs is the median step less the median step of the same processes without it; both kinds of step take turns.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

SHAPE, CLASSES = (3, 32, 32), 10


def blocks() -> list[nn.Module]:
    """`[N, 3, 32, 32]` → `[N, 128, 4, 4]`"""
    sizes = itertools.pairwise([3, 32, 64, 128])
    return [
        layer
        for a, b in sizes
        for layer in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
    ]


def measure(rank: int, processes: int, share: int, steps: int, folder: str) -> None:
    """Leaves on the first rank the seconds of each step, with the exchange of gradients and without."""
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(*blocks(), nn.Flatten(), nn.Linear(128 * 16, CLASSES))
    model = DistributedDataParallel(net.to(device))
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, labels = torch.randn(share, *SHAPE, device=device), torch.randint(CLASSES, (share,), device=device)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for step in range(2 * (steps + 3)):
        exchange = step % 2 == 0
        dist.barrier()
        began = time.perf_counter()
        with nullcontext() if exchange else model.no_sync():
            nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 6:  # the first steps allocate
            seconds[exchange].append(time.perf_counter() - began)
    if rank == 0:
        Path(folder, "seconds.json").write_text(json.dumps([seconds[True], seconds[False]]))
    dist.destroy_process_group()


def run(kind: str, processes: int, batch: int, steps: int) -> dict[str, Any]:
    """One row: medians over the steps of the first rank."""
    share = batch // processes if kind == "strong" else batch
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (processes, share, steps, folder), nprocs=processes)
        whole, alone = map(statistics.median, json.loads(Path(folder, "seconds.json").read_text()))
    return {
        "scaling": kind,
        "processes": processes,
        "batch": share * processes,
        "step_ms": 1000 * whole,
        "exchange": max(0.0, 1 - alone / whole),
        "images_per_second": share * processes / whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("scaling  processes  batch  step ms  in exchange  images/s  efficiency")
    for kind, processes in itertools.product(("strong", "weak"), options.processes):
        row = run(kind, processes, options.batch, options.steps)
        rows.append(row)
        first = next(other for other in rows if other["scaling"] == kind)
        share = row["images_per_second"] / processes
        row["efficiency"] = share / (first["images_per_second"] / first["processes"])
        formats = ("7", "9", "5", "7.1f", "11.0%", "8.0f", "10.2f")
        print("  ".join(f"{value:{form}}" for value, form in zip(row.values(), formats, strict=True)), flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    facts = {"device": device, "system": platform.platform(), "torch": torch.__version__, "steps": options.steps}
    print(json.dumps(facts | {"rows": rows}))


if __name__ == "__main__":
    main()
