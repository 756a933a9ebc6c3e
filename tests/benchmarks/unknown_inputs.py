"""AUROC of scores that tell the test samples of a run from inputs of other sources.

python -m tests.benchmarks.unknown_inputs RUN [--images FOLDER] [--count 300]

Sources: letters of PIL's font (8×8, for grey images), uniform noise, the test samples with their pixels in another
order, and images of a folder, such as those of other classes. The first score is that of `task=predict unknown=…`.
"""

import argparse
import string
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lit_modules.inference.unknown import FALSE_ALARM_RATE, FILE, familiarity, familiarity_threshold
from lit_modules.networks.head import body_features
from litmus import load_run
from tests.benchmarks.measuring import Measured, report

LIKE_DIGITS = "OoIlSsZzBqgbG"


def letters() -> Tensor:
    """Float `[N, 1, 8, 8]`: letters that are unlike digits, at three positions."""
    drawings = []
    for letter in string.ascii_letters:
        for left in (0, 1, 2):
            image = Image.new("L", (8, 8))
            ImageDraw.Draw(image).text((left, -2), letter, fill=255, font=ImageFont.load_default(8))
            if letter not in LIKE_DIGITS:
                drawings.append(np.asarray(image, np.float32) / 255)
    return torch.from_numpy(np.stack(drawings))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of unknown images")
    parser.add_argument("--count", type=int, default=300, help="samples of each source at most")
    options = parser.parse_args()
    run = load_run(options.run, device="cpu")
    predictor, generator = run._predictor, torch.Generator().manual_seed(0)
    reference = torch.from_numpy(np.load(options.run / FILE)["features"])
    test = torch.cat([scaled for _, scaled in run.datamodule().batches("test")])[: options.count]

    def scores(samples: Tensor) -> dict[str, np.ndarray]:
        parts: Iterable[Tensor] = samples.split(64)
        with torch.inference_mode():
            pairs = [
                (predictor.logits(part), body_features(predictor.net, predictor.normalize(part))) for part in parts
            ]
        logits, features = (torch.cat(column) for column in zip(*pairs, strict=True))
        values = {
            "features": familiarity(features, reference),
            "energy": logits.logsumexp(1),
            "maximum logit": logits.amax(1),
            "maximum probability": logits.softmax(1).amax(1),
        }
        return {name: value.numpy() for name, value in values.items()}

    size = test.shape[1:].numel()
    order = torch.randperm(size // test.shape[1], generator=generator)
    sources = {
        "noise": torch.rand(len(test), *test.shape[1:], generator=generator),
        "other order": test.flatten(2)[..., order].view_as(test),
    }
    if test.shape[1:] == (1, 8, 8):
        sources["letters"] = letters()
    for folder in options.images:
        files = sorted(folder.rglob("*.jpg"))
        files = files[:: max(1, len(files) // options.count)][: options.count]
        sources[folder.name] = torch.from_numpy(np.stack([run._sample(file) for file in files]))
    known = scores(test)
    measured: Measured = {score: {} for score in known}
    threshold = familiarity_threshold(reference, FALSE_ALARM_RATE)
    print(f"{options.run.name}: {(known['features'] < threshold).mean():.3f} of {len(test)} test samples are unknown")
    for source, samples in sources.items():
        unknown = scores(samples)
        print(f"{source}: {(unknown['features'] < threshold).mean():.3f} of {len(samples)} are unknown")
        labels = np.repeat([1, 0], [len(test), len(samples)])
        for score, values in unknown.items():
            measured[score][source] = [float(roc_auc_score(labels, np.concatenate([known[score], values])))]
    report("unknown_inputs", measured, run=options.run.name, false_alarm_rate=FALSE_ALARM_RATE)


if __name__ == "__main__":
    main()
