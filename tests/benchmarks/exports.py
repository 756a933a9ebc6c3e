"""Exports of a run to the formats whose packages are installed: differences from `task=predict`, speed and size.

python -m tests.benchmarks.exports RUN --images FOLDER [--formats onnx openvino] [--count 200] [--rounds 3]

Files are read as the example beside an export reads them. Speed: 50 images, one at a time, without reading.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from datamodules.image_stream import image_spec
from lit_modules.inference.any_size import AnySize
from lit_modules.inference.export import REQUIRED_PACKAGES, WRITERS
from lit_modules.inference.export_example import example
from lit_modules.inference.export_formats.onnx_model import quantize, session
from lit_modules.inference.image_reading import ANY_SIZE
from lit_modules.inference.quantization import quantization_plan
from litmus import load_run
from tests.benchmarks.measuring import in_turn, report

NUM_TIMED = 50
IMAGE, INT8 = "onnx, input=image", "onnx, precision=int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run on images")
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--formats", nargs="*", default=sorted(WRITERS.keys() - {"web"}))
    parser.add_argument("--count", type=int, default=200, help="files at most")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    run = load_run(options.run, device="cpu")
    model = run._predictor.to(memory_format=torch.contiguous_format)
    files = sorted(options.images.rglob("*.jpg"))
    files = files[:: max(1, len(files) // options.count)][: options.count]
    expected = torch.from_numpy(np.concatenate([run._predict([file]) for file in files]))

    spec = image_spec(run.config.datamodule, run.input_shape)
    inputs = {"": read_all(files, spec._asdict(), ["batch", *run.input_shape])}
    sample = inputs[""][0].expand(2, -1, -1, -1).contiguous()
    runs, sizes = {"PyTorch": model}, {}
    for name in options.formats:
        if all(map(find_spec, REQUIRED_PACKAGES[name])):
            contents, runs[name] = WRITERS[name](model, sample, "{}")
            sizes[name] = sum(map(len, contents.values()))
            if name == "onnx":
                plan = quantization_plan(run.datamodule(), True, 1.0)
                smaller = quantize(contents["model.onnx"], plan.calibration)
                runs[INT8], sizes[INT8] = session(smaller), len(smaller)
                inputs[IMAGE] = read_all(files, spec._asdict(), ANY_SIZE)
                any_size = AnySize(model, spec.channels, spec.size, spec.resize, spec.interpolation)
                contents, runs[IMAGE] = WRITERS[name](any_size, inputs[IMAGE][0].expand(2, -1, -1, -1), "{}")
                sizes[IMAGE] = len(contents["model.onnx"])

    def figures(name: str) -> dict[str, float]:
        compute, samples = runs[name], inputs.get(name, inputs[""])[:NUM_TIMED]
        with torch.inference_mode():
            began = time.perf_counter()
            for sample in samples:
                compute(sample)
        return {"images per second": len(samples) / (time.perf_counter() - began)}

    differences = {}
    for name, compute in runs.items():
        with torch.inference_mode():
            outputs = torch.cat([compute(sample) for sample in inputs.get(name, inputs[""])])
        differences[name] = float((outputs - expected).abs().max())
        changed = int((outputs.argmax(1) != expected.argmax(1)).sum())
        size = f"{sizes.get(name, 0) / 1e6:.2f} MB"
        print(f"{name}: largest difference {differences[name]:.1e}, another class for {changed} files, {size}")
    measured = in_turn({name: lambda _, name=name: figures(name) for name in runs}, options.rounds)
    report("exports", measured, run=options.run.name, files=len(files), differences=differences, bytes=sizes)


def read_all(files: list[Path], spec: dict[str, object], shape: list[str | int]) -> list[torch.Tensor]:
    """The files as the example reads them."""
    namespace: dict[str, object] = {"__name__": "example"}
    exec(example("torch_export", spec | {"inputs": {"shape": shape, "dtype": "uint8"}}), namespace)
    return [torch.tensor(namespace["read"](file)) for file in files]  # type: ignore[operator]


if __name__ == "__main__":
    main()
