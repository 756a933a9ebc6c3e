"""A finished run in Python: its network, predictions, scores and data."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from conf import nodes, received_config, saved_config
from conf.errors import UserError

if TYPE_CHECKING:
    from lit_modules.classifier import LitClassifier
    from lit_modules.evaluation.evaluation import Evaluation

MAX_BATCH = 64  # images


def load_run(folder: str | Path, *, device: str = "auto", calibrate: bool = False) -> "Run":
    """Opens the best epoch of a run, as safely as `run=DIR` on the command line.

    Args:
        folder: of the run, such as logs/digits/2026-01-31_12-00-00.
        device: auto: a GPU if there is one; cpu, cuda or mps.
        calibrate: divide the logits by a temperature fitted to the validation split.

    Raises:
        UserError: the folder holds no finished run, or what is in it is not allowed.
    """
    return Run(Path(folder), device, calibrate)


class Run:
    """See `load_run`. Changes nothing in its folder; several threads may call `predict`."""

    def __init__(self, folder: Path, device: str, calibrate: bool) -> None:
        from lit_modules.inference.device import device_of
        from lit_modules.inference.predictor import best_predictor

        self.folder = folder
        self.config = _read_config(folder, calibrate)
        nodes.check_nodes({"lit_module": {"net": OmegaConf.to_container(self.config.lit_module.net)}})
        self.device = device_of(OmegaConf.create({"accelerator": device, "devices": 1}))
        predictor, self.class_names, self.input_shape = best_predictor(self.config)
        self._predictor = predictor.to(self.device)

    def predict(self, source: Any) -> Any:
        """Class probabilities.

        Args:
            source: a file, a PIL image, a uint8 array `[H, W]` or `[H, W, 3]`, or an array `input_shape`, uint8 or
                float in [0, 1]; or a list of such.

        Returns:
            A dict of probabilities by class name; for a list, a list of dicts.

        Raises:
            UserError: a file is unreadable, or an array has another shape.
        """
        if not isinstance(source, list | tuple):
            return self.predict([source])[0]
        predictions = []
        for start in range(0, len(source), MAX_BATCH):
            predictions += self._predict(source[start : start + MAX_BATCH]).tolist()
        return [dict(zip(self.class_names, row, strict=True)) for row in predictions]

    def predict_set(self, source: Any, *, coverage: float = 0.95) -> list[str]:
        """The classes that may be the true one, most probable first; see `lit_modules.inference.conformal`.

        Args:
            source: one, as for `predict`.
            coverage: probability that the true class is among them, for samples like those of the validation split.

        Raises:
            UserError: also if there are too few validation samples, or a sample may have several labels.
        """
        from lit_modules.inference.thresholds import Thresholds, run_set_threshold

        if self._predictor.multi_label:
            raise UserError("predict_set: a set holds one true class, and the run predicts several labels; use predict")
        thresholds = Thresholds(set=run_set_threshold(self.folder, self._predictor, coverage))
        names: list[str] = thresholds.decide(self._predict([source]), self.class_names)[0]["set"]
        return names

    def is_known(self, source: Any, *, unknown: float = 0.05) -> bool:
        """Whether a sample is like those of the validation split; see `lit_modules.inference.unknown`.

        Args:
            source: one, as for `predict`.
            unknown: false alarm rate: the fraction of samples like those of the validation split that are not known.

        Raises:
            UserError: also if there are too few validation samples.
        """
        from lit_modules.inference.unknown import known_inputs

        with known_inputs(self.folder, self._predictor.net, unknown) as known:
            self._predict([source])
            return known.of_last_batch()[0]

    def _predict(self, sources: Sequence[Any]) -> np.ndarray:
        """Probabilities, float32 `[N, num_classes]`."""
        import torch

        from lit_modules.inference.device import autocast

        samples = np.stack([self._sample(source) for source in sources])
        with torch.inference_mode(), autocast(self.device, self.config.trainer.precision):
            probabilities: np.ndarray = self._predictor(torch.from_numpy(samples).to(self.device)).cpu().numpy()
        return probabilities

    def _sample(self, source: Any) -> np.ndarray:
        """An input of the network, float32 `input_shape`."""
        from PIL import Image

        if isinstance(source, str | Path):
            return self._decoded(str(source), str(source))
        if isinstance(source, Image.Image):
            return self._decoded(source.copy(), "the image")  # decoding closes the image it is given
        array = np.asarray(source)
        if array.dtype == np.uint8 and array.shape != self.input_shape and array.ndim in (2, 3):
            try:
                return self._decoded(Image.fromarray(array), "the array")
            except TypeError:  # neither grey nor RGB
                pass
        if array.shape != self.input_shape:
            problem = f"an array {array.shape} of {array.dtype}"
            raise UserError(f"predict: {problem}; give an image, or an array {self.input_shape}")
        if array.dtype == np.uint8:
            return array.astype(np.float32) / np.float32(255)
        if "resize" in self.config.datamodule and not (array.min() >= 0 and array.max() <= 1):
            raise UserError("predict: floats of an image are in [0, 1]; divide them by 255")
        return array.astype(np.float32)

    def _decoded(self, item: Any, name: str) -> np.ndarray:
        from datamodules.storage.decode import ImageSpec, decode

        data = self.config.datamodule
        if "resize" not in data:
            raise UserError(f"predict: {self.folder} was trained on arrays; give arrays {self.input_shape}")
        channels, height, width = self.input_shape
        interpolation: Any = data.get("interpolation") or "bilinear"
        pixels = decode(item, ImageSpec(channels, (height, width), data.resize, data.jpeg_draft, interpolation))
        if isinstance(pixels, str):
            raise UserError(f"{name}: {pixels}; give another")
        return pixels.astype(np.float32) / np.float32(255)

    @cached_property
    def module(self) -> "LitClassifier":
        """The LightningModule of the best epoch, on the CPU, in eval mode."""
        from lit_modules.runs.restore import best_network

        nodes.check_nodes({"lit_module": OmegaConf.to_container(self.config.lit_module)})
        module: LitClassifier = best_network(self.config)
        return module

    def datamodule(self, **changes: Any) -> Any:
        """The LightningDataModule of the run, with its splits read.

        Args:
            changes: parameters to replace, such as `root` or `batch_size`.
        """
        from hydra.utils import instantiate

        node = self.config.datamodule
        if "image_size" in node:  # as the network takes them
            changes = {"channels": self.input_shape[0], "image_size": list(self.input_shape[1:]), **changes}
        nodes.check_nodes({"datamodule": {**OmegaConf.to_container(node), **changes}})  # type: ignore[dict-item]
        datamodule = instantiate(node, **changes, _convert_="all")
        datamodule.prepare_data()
        datamodule.setup("fit")
        return datamodule

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one per epoch; `pandas.DataFrame(run.metrics)` makes a table of them."""
        from lit_modules.runs.run_folder import read_metrics

        return read_metrics(self.folder)

    @cached_property
    def evaluations(self) -> dict[str, "Evaluation"]:
        """Scores, confusion matrix and curves of the best epoch, by split: `val` and `test`."""
        from lit_modules.runs.predictions_csv import read_predictions

        return read_predictions(self.folder / "predictions.csv")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {len(self.class_names)} classes, inputs {self.input_shape})"


def _read_config(folder: Path, calibrate: bool) -> DictConfig:
    """The saved config, checked as that of a stranger, without interpolations."""
    saved = saved_config.read(folder)
    received_config.check_folder(folder)
    received_config.check(folder, saved, ["task=predict"])
    cfg = OmegaConf.create(saved | {"run_dir": str(folder), "run": str(folder), "calibrate": calibrate})
    return saved_config.resolved(cfg)
