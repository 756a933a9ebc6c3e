"""Differences of a run's probabilities when JPEGs are decoded or resized otherwise than by `task=predict`.

python -m tests.benchmarks.decoders RUN --images FOLDER [--count 200]

For each file: the largest absolute difference of a probability. The first side shows what the least change of pixels
does: each is 1 of 255 lighter or darker at random. Needs opencv-python-headless; its own resize is tried where the run
stretches images.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from datamodules.image_stream import image_spec
from datamodules.storage.decode import to_array
from litmus import load_run
from tests.benchmarks.measuring import Measured, report


def opencv(path: Path, *flags: int) -> np.ndarray:
    """RGB `[H, W, 3]`, rotated by EXIF."""
    return cv2.cvtColor(cv2.imread(str(path), *flags), cv2.COLOR_BGR2RGB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run on images of three channels")
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--count", type=int, default=200, help="files at most")
    options = parser.parse_args()
    run = load_run(options.run, device="cpu")
    spec = image_spec(run.config.datamodule, run.input_shape)
    files = sorted(options.images.rglob("*.jpg"))
    files = files[:: max(1, len(files) // options.count)][: options.count]
    expected = probabilities(run, [run._sample(file) for file in files])

    generator = np.random.default_rng(0)

    def disturbed(file: Path) -> np.ndarray:
        pixels = run._sample(file) * 255 + generator.choice([-1, 1], run.input_shape)
        return pixels.clip(0, 255)

    sides: dict[str, Callable[[Path], np.ndarray]] = {
        "1 of 255 more or less": disturbed,
        "Pillow without draft": lambda file: to_array(Image.open(file), spec),
        "OpenCV decodes": lambda file: to_array(Image.fromarray(opencv(file)), spec),
        "OpenCV decodes at 1/2": lambda file: to_array(Image.fromarray(opencv(file, cv2.IMREAD_REDUCED_COLOR_2)), spec),
    }
    if spec.resize == "stretch":
        for name in ("INTER_AREA", "INTER_LINEAR", "INTER_CUBIC"):
            sides[f"OpenCV decodes, {name}"] = lambda file, name=name: cv2.resize(
                opencv(file), spec.size[::-1], interpolation=getattr(cv2, name)
            ).transpose(2, 0, 1)
    measured: Measured = {}
    other_classes = {}
    for name, read in sides.items():
        outputs = probabilities(run, [read(file).astype(np.float32) / 255 for file in files])
        measured[name] = {"difference": np.abs(outputs - expected).max(1).tolist()}
        other_classes[name] = int((outputs.argmax(1) != expected.argmax(1)).sum())
        print(f"{name}: another class for {other_classes[name]} of {len(files)} files")
    versions = {"pillow": Image.__version__, "opencv": cv2.__version__}
    report("decoders", measured, run=options.run.name, files=len(files), other_classes=other_classes, **versions)


def probabilities(run, samples: list[np.ndarray]) -> np.ndarray:  # type: ignore[no-untyped-def]
    with torch.inference_mode():
        batches = torch.from_numpy(np.stack(samples)).split(50)
        return np.concatenate([run._predictor(batch).numpy() for batch in batches])


if __name__ == "__main__":
    main()
