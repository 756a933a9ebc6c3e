"""Scores the best epoch of a run."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lit_modules.callbacks.predictions import CollectPredictions
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.predictions import gather_rows
from lit_modules.inference.unknown import save_features
from lit_modules.networks.head import head_of
from lit_modules.runs import run_folder
from lit_modules.runs.restore import load_best


class CollectFeatures(Callback):
    """Keeps what the head receives in each step of an evaluation. A network with several heads has no features."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Tensor, Tensor]]] = {"val": [], "test": []}
        self._hook: RemovableHandle | None = None

    def gather(self, split: str) -> Tensor:
        """The features of a split in its order on rank 0, float32 `[N, D]`; N = 0 on other ranks, or without features.
        A collective call.
        """
        rows = self._rows[split]
        gathered = gather_rows(tuple(torch.cat(parts) for parts in zip(*rows, strict=True))) if rows else None
        if gathered is None:
            return torch.zeros(0, 0)
        index, features = gathered
        return torch.from_numpy(features[index.argsort()])

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self._listen(pl_module, batch, "val")

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self._listen(pl_module, batch, "test")

    def on_validation_batch_end(self, *_: Any) -> None:
        if self._hook:
            self._hook.remove()

    def on_test_batch_end(self, *_: Any) -> None:
        self.on_validation_batch_end()

    def _listen(self, pl_module: LightningModule, batch: Any, split: str) -> None:
        net: Any = pl_module.net
        if getattr(net, "head_name", "") is not None:
            self._hook = head_of(net).register_forward_pre_hook(
                lambda _head, arguments: self._rows[split].append(
                    (batch.index, arguments[0].detach().flatten(1).float())
                )
            )


def score_best(folder: Path, trainer: Trainer, module: LitClassifier, datamodule: Any, test: bool) -> dict[str, Any]:
    """Loads the best epoch's weights and scores them; all ranks must call it.

    It also saves the features of the validation samples.

    Args:
        folder: of the run.
        trainer: after the fit.
        module: gets the weights.
        datamodule: of the fit.
        test: whether to validate (for the predictions) and test, once.

    Returns:
        The scores of the best epoch, `best_epoch`, training `seconds` and `samples/<split>`.
    """
    best_epoch = load_best(module, folder)
    # WeightAveraging would load its last average before each evaluation.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    results: dict[str, Any] = {}
    collected = CollectFeatures()
    trainer.callbacks.append(collected)  # type: ignore[attr-defined]
    if test and any(isinstance(callback, CollectPredictions) for callback in callbacks):
        trainer.validate(module, datamodule, verbose=False)  # for the predictions of the validation split
        results |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    if test:
        trainer.test(module, datamodule, verbose=False)
        results |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    features = {split: collected.gather(split) for split in ("val", "test")}
    if trainer.is_global_zero:
        results |= save_features(folder, best_epoch, **features)
    rows = run_folder.read_metrics(folder)
    best_row = next(row for row in rows if row["epoch"] == best_epoch)
    results |= {name: value for name, value in best_row.items() if "/" in name}
    results |= {f"samples/{split}": len(datamodule.files(split)) for split in ("train", "val", "test")}
    return results | {"best_epoch": best_epoch, "seconds": sum(row["seconds"] for row in rows)}
