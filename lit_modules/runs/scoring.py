"""Scores the best epoch of a run."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lit_modules.callbacks.predictions import CollectPredictions
from lit_modules.classifier import LitClassifier
from lit_modules.inference.unknown import save_features
from lit_modules.networks.head import head_of
from lit_modules.runs import run_folder
from lit_modules.runs.restore import load_best


class CollectFeatures(Callback):
    """Keeps what the head receives in each step of an evaluation: the features `val` and `test`, by batch.

    A network with several heads has none.
    """

    def __init__(self) -> None:
        self.val: list[Tensor] = []
        self.test: list[Tensor] = []
        self._hook: RemovableHandle | None = None

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._listen(pl_module, self.val)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._listen(pl_module, self.test)

    def on_validation_batch_end(self, *_: Any) -> None:
        if self._hook:
            self._hook.remove()

    def on_test_batch_end(self, *_: Any) -> None:
        self.on_validation_batch_end()

    def _listen(self, pl_module: LightningModule, features: list[Tensor]) -> None:
        net: Any = pl_module.net
        if getattr(net, "head_name", "") is not None:
            self._hook = head_of(net).register_forward_pre_hook(
                lambda _head, arguments: features.append(arguments[0].detach())
            )


def score_best(folder: Path, trainer: Trainer, module: LitClassifier, datamodule: Any, test: bool) -> dict[str, Any]:
    """Loads the best epoch's weights and scores them; all ranks must call it.

    It also saves the features of the validation samples; with several ranks, those of the first.

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
    if trainer.is_global_zero:
        results |= save_features(folder, best_epoch, collected.val, collected.test)
    rows = run_folder.read_metrics(folder)
    best_row = next(row for row in rows if row["epoch"] == best_epoch)
    results |= {name: value for name, value in best_row.items() if "/" in name}
    results |= {f"samples/{split}": len(datamodule.files(split)) for split in ("train", "val", "test")}
    return results | {"best_epoch": best_epoch, "seconds": sum(row["seconds"] for row in rows)}
