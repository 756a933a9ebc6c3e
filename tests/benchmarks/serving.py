"""`task=serve` under concurrent clients against its network alone: images a second, latency, lost requests.

python -m tests.benchmarks.serving --run DIR --images DIR
"""

import argparse
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import torch

from datamodules.image_stream import find, image_spec
from datamodules.storage.decode import decode_all
from datamodules.storage.memory import free_memory
from lit_modules.inference.predictor import best_predictor
from lit_modules.trainer import process
from tests.benchmarks.measuring import Figures, configure, in_turn, report
from tests.configs import ROOT


def served(port: int, contents: list[bytes], clients: int, seconds: float) -> Figures:
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

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    milliseconds = [latency * 1000 for latency in latencies]
    return {
        "images a second": len(latencies) / (time.perf_counter() - began),
        "median latency, ms": statistics.median(milliseconds),
        "99th percentile, ms": statistics.quantiles(milliseconds, n=100)[-1],
        "lost requests": len(lost),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a run on images")
    parser.add_argument("--images", required=True, help="folder of images to send")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    process.set_up(free_memory())  # as the task does
    cfg = configure(f"run={options.run}", "task=serve", "port=0", "devices=cpu")
    predictor, _, input_shape = best_predictor(cfg)
    files, items = find(options.images)
    contents = [Path(file).read_bytes() for file in files[:500]]
    spec = image_spec(cfg.datamodule, input_shape)
    batches = torch.from_numpy(decode_all(items[:500], spec).pixels).split(cfg.datamodule.batch_size)

    def alone(_: int) -> Figures:
        began, count = time.perf_counter(), 0
        with torch.inference_mode():
            while time.perf_counter() - began < options.seconds / 2:
                for batch in batches[:4]:
                    predictor(batch)
                    count += len(batch)
        return {"images a second": count / (time.perf_counter() - began)}

    command = [sys.executable, str(ROOT / "train.py"), f"run={options.run}", "task=serve", "port=0", "devices=cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        load = partial(served, port, contents, options.clients, options.seconds)
        sides = {"task=serve": lambda _: load(), "the network alone": alone}
        measured = in_turn(sides, options.rounds)
        server.terminate()
    report("serving", measured, clients=options.clients, images=len(contents), batch_size=cfg.datamodule.batch_size)


if __name__ == "__main__":
    main()
