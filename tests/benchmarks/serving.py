"""`task=serve` under concurrent clients against its network alone: images a second, latency, lost requests.

python -m tests.benchmarks.serving --run DIR --images DIR
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from pathlib import Path

import torch

from datamodules.image_stream import find, image_spec
from datamodules.storage.decode import decode_all
from datamodules.storage.memory import free_memory
from lit_modules.inference.predictor import best_predictor
from lit_modules.trainer import process
from tests.benchmarks.measuring import Figures, configure, in_turn, report
from tests.configs import ROOT


def cpu_seconds(process_id: int) -> float:
    """CPU time of a running process, which other work on the machine affects less than wall clock."""
    user, system = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def served(server: int, port: int, contents: list[bytes], clients: int, seconds: float) -> Figures:
    """Clients that each send one image after another, and wait for its answer."""
    end = time.perf_counter() + seconds
    latencies: list[float] = []
    lost: list[str] = []

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        position = number
        while (began := time.perf_counter()) < end:
            try:
                connection.request("POST", "/predict", contents[position % len(contents)])
                response = connection.getresponse()
                body = response.read()
            except (OSError, HTTPException) as error:
                lost.append(repr(error))
                connection.close()
                continue
            if response.status != 200:
                lost.append(body.decode())
            latencies.append(time.perf_counter() - began)
            position += clients

    began, used = time.perf_counter(), cpu_seconds(server)
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    milliseconds = [latency * 1000 for latency in latencies]
    return {
        "images a second": len(latencies) / (time.perf_counter() - began),
        "images a CPU second": len(latencies) / (cpu_seconds(server) - used),
        "median latency, ms": statistics.median(milliseconds),
        "99th percentile, ms": statistics.quantiles(milliseconds, n=100)[-1],
        "answered, %": 100 * (1 - len(lost) / (len(latencies) + len(lost))),
    }


def alone(run: str, images: str, seconds: float) -> Figures:
    """The network without a service, on decoded images, in batches of the run's size."""
    process.set_up(free_memory(), one_arena=True)  # as the task does
    cfg = configure(f"run={run}", "task=serve", "devices=cpu")
    predictor, _, input_shape = best_predictor(cfg)
    size = cfg.datamodule.batch_size
    inputs = decode_all(find(images)[1][: 4 * size], image_spec(cfg.datamodule, input_shape)).pixels
    batches = torch.from_numpy(inputs).split(size)

    def images_in(seconds: float) -> int:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for batch in batches:
                predictor(batch)
                count += len(batch)
        return count

    with torch.inference_mode():
        images_in(seconds / 4)  # warm
        began, used = time.perf_counter(), time.process_time()
        count = images_in(seconds)
    rates = {"images a second": time.perf_counter() - began, "images a CPU second": time.process_time() - used}
    return {figure: count / passed for figure, passed in rates.items()}


def in_a_thread(run: str, images: str, seconds: float) -> Figures:
    """`alone` where the service computes: with a second team of threads OpenMP waits without spinning."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone, run, images, seconds).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a run on images")
    parser.add_argument("--images", required=True, help="folder of images to send")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    contents = [Path(file).read_bytes() for file in find(options.images)[0][:500]]

    def in_new_process(_: int) -> Figures:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(in_a_thread, options.run, options.images, options.seconds / 3).result()

    command = [sys.executable, str(ROOT / "train.py"), f"run={options.run}", "task=serve", "port=0", "devices=cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        load = partial(served, server.pid, port, contents, options.clients, options.seconds)
        sides = {"task=serve": lambda _: load(), "the network alone": in_new_process}
        measured = in_turn(sides, options.rounds)
        server.terminate()
    report("serving", measured, clients=options.clients, images=len(contents))


if __name__ == "__main__":
    main()
