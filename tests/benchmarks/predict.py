"""`task=predict` against its two halves on all cores: reading and decoding, and the network.

python -m tests.benchmarks.predict --images FOLDER

With the network on a CPU both halves need the same cores, so their sum is the lower bound.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measuring import configure, in_turn, report

# torch is imported inside the function: every decoding process imports this file.


def seconds(work: Callable[[], object]) -> dict[str, float]:
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    import torch

    import train
    from datamodules.image_stream import find, read_in_batches
    from datamodules.storage.decode import ImageSpec
    from lit_modules.inference.predict import predict
    from lit_modules.inference.predictor import Predictor

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="an image folder")
    parser.add_argument("--overrides", nargs="*", default=["+experiment=from_scratch"], help="of network and data")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cfg = configure(*options.overrides, f"datamodule.root={options.images}")
    _, module, trainer = train.build(cfg)
    device = trainer.strategy.root_device
    predictor = Predictor(module.normalize, module.net, 1.0).to(device)
    channels, *size = module.input_shape
    files, items = find(str(options.images))
    spec = ImageSpec(channels, tuple(size), cfg.datamodule.resize, cfg.datamodule.jpeg_draft)
    settings = spec, cfg.datamodule.batch_size, cfg.datamodule.num_workers
    decoded = list(read_in_batches(files, items, *settings, "none"))

    def read() -> None:
        for _ in read_in_batches(files, items, *settings, "none"):
            pass

    def compute() -> None:
        with torch.inference_mode():
            for batch in decoded:
                predictor(torch.from_numpy(batch.inputs).to(device)).cpu()

    def both() -> None:
        batches = read_in_batches(files, items, *settings, device.type)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            predict(predictor, batches, len(files), module.class_names, False, Path(folder) / "out")

    sides = {"predict": both, "the loader alone": read, "the network alone": compute}
    measured = in_turn({name: lambda _, work=work: seconds(work) for name, work in sides.items()}, options.rounds)
    report("predict", measured, images=len(files), batch_size=cfg.datamodule.batch_size)
    predicting = measured["predict"]["seconds"]
    loader, network = measured["the loader alone"]["seconds"], measured["the network alone"]["seconds"]
    rounds = list(zip(predicting, loader, network, strict=True))
    slower = statistics.median(max(halves) / seconds for seconds, *halves in rounds)
    both_halves = statistics.median(sum(halves) / seconds for seconds, *halves in rounds)
    print(f"predict runs at {slower:.2f} of the slower half's rate, {both_halves:.2f} of that of both in sequence")


if __name__ == "__main__":
    main()
