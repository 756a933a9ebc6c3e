"""What a prediction writes beside the probabilities: embeddings, class activation maps."""

import os
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from conf.errors import UserError
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.head import head_of

MIN_SIDE = 224  # pixels of a map; smaller images are enlarged
MIN_ANNOUNCED_SECONDS = 60.0


class Extra(Protocol):
    """Further output of a prediction."""

    def start(self, output: Path, total: int) -> None:
        """Called before the first batch, with the folder and the number of files."""

    def add(self, inputs: Tensor, labels: list[int], kept: list[int]) -> None:
        """Called after the forward pass of a batch.

        Args:
            inputs: uint8 `[N, C, H, W]`.
            labels: the predicted ones, `[N]`.
            kept: positions in the batch of the rows of predictions.csv.
        """

    def finish(self) -> None:
        """Called after the last batch."""


def extra_outputs(cfg: DictConfig, predictor: Predictor, input_shape: tuple[int, ...]) -> list[Extra]:
    """Those that the config asks for.

    Args:
        predictor: on the device to use.
        input_shape: of a sample.

    Raises:
        UserError: the network has none.
    """
    sample = predictor.normalize(torch.zeros(1, *input_shape, device=predictor.white.device))
    extras: list[Extra] = []
    if cfg.explain:
        extras.append(Maps(predictor, sample))
    if cfg.embeddings:
        extras.append(Embeddings(predictor.net, sample))
    return extras


class Embeddings:
    """`embeddings.npy`: the features that the head turns into logits, float32 `[N, D]`, as in the prediction itself.

    Args:
        net: in eval mode.
        sample: float `[1, C, *spatial]`, normalized.
    """

    def __init__(self, net: nn.Module, sample: Tensor) -> None:
        if getattr(net, "head_name", "") is None:
            raise UserError("embeddings: this network has several heads; leave it out")
        self._received: list[Tensor] = []  # since the last batch, first those of the prediction itself
        head_of(net).register_forward_pre_hook(lambda _head, arguments: self._received.append(arguments[0]))
        with torch.inference_mode():
            net(sample)
        if not self._received or len(self._received[0]) != 1:
            raise UserError("embeddings: the head of this network gets no features of one sample; leave it out")
        self._width = self._received[0].numel()
        self._rows = 0

    def start(self, output: Path, total: int) -> None:
        self._part = output / "embeddings.npy.part"
        self._file = open(self._part, "wb")  # noqa: SIM115  # closed by finish
        self._received.clear()
        self._write_header()

    def add(self, inputs: Tensor, labels: list[int], kept: list[int]) -> None:
        features = self._received[0].flatten(1)[kept]
        self._received.clear()
        self._file.write(features.float().cpu().numpy().tobytes())
        self._rows += len(kept)

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()
        os.replace(self._part, self._part.with_suffix(""))

    def _write_header(self) -> None:
        """Its length does not depend on the number of rows: NumPy leaves room for appending."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._width)}
        write_array_header_1_0(self._file, header)


class Maps:
    """`maps/000001.png` and so on, numbered as the rows of predictions.csv: the image, and beside it the map of the
    predicted class over the image in grey.

    Args:
        predictor: on the device to use.
        sample: float `[1, C, *spatial]`, normalized.
    """

    def __init__(self, predictor: Predictor, sample: Tensor) -> None:
        from lit_modules.evaluation.activation_maps import ActivationMaps

        self._predictor = predictor
        self._contributions = ActivationMaps(predictor.net, sample)
        if self._contributions.why_not:
            raise UserError(f"explain: there are no maps, because {self._contributions.why_not}; leave it out")
        self._rows = 0

    def start(self, output: Path, total: int) -> None:
        self._total = total
        self._folder = output / "maps"
        self._folder.mkdir(exist_ok=True)
        for earlier in self._folder.glob("[0-9]*.png"):
            earlier.unlink()

    def add(self, inputs: Tensor, labels: list[int], kept: list[int]) -> None:
        from lit_modules.evaluation.activation_maps import scaled

        if not kept:
            return
        began = time.perf_counter()
        inputs = inputs[kept]
        samples = inputs.float() / self._predictor.white
        of_predicted = torch.tensor(labels, device=inputs.device)[kept, None]
        contributions = self._contributions(self._predictor.normalize(samples), of_predicted)
        maps = scaled(contributions, inputs.shape[2:])[:, 0]
        for sample, heat in zip(samples.cpu().numpy(), maps.cpu().numpy(), strict=True):
            self._rows += 1
            _write_map(self._folder / f"{self._rows:06d}.png", sample, heat)
        seconds = (time.perf_counter() - began) / len(kept) * self._total
        if self._rows == len(kept) and seconds > MIN_ANNOUNCED_SECONDS:
            tqdm.write(f"maps of {self._total:,} images: about {seconds / 60:.0f} min")

    def finish(self) -> None:
        pass


def _write_map(path: Path, sample: np.ndarray, heat: np.ndarray) -> None:
    """The image `[C, H, W]` in [0, 1], and beside it its map `[H, W]`."""
    from PIL import Image

    from lit_modules.evaluation.image_grid import overlay

    image = np.moveaxis(np.broadcast_to(sample, (3, *sample.shape[1:])), 0, -1)
    both = np.concatenate([image, overlay(sample, heat)], 1)
    factor = -(-MIN_SIDE // min(heat.shape))
    pixels = (both * 255).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    Image.fromarray(pixels).save(path, compress_level=1)
