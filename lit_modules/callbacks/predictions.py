"""CollectPredictions: evaluates the predictions of a split and logs figures to TensorBoard."""

import math
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lit_modules.callbacks.plot_budget import PlotBudget
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.activation_maps import explain
from lit_modules.evaluation.drawing import draw
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.predictions import Collector
from lit_modules.loggers.tensorboard import tensorboard_of


class CollectPredictions(Callback):
    """Draws figures of the validation split during training, and of the test split.

    It also logs `ece`, `auc` and `ap`, unless the classifier has metrics of these names, to TensorBoard, and in
    `trainer.validate` and `trainer.test` for the report, and keeps the `evaluations` of these by split.

    Args:
        every_n_epochs, max_overhead: see `PlotBudget`; skipped epochs collect no predictions.
    """

    def __init__(
        self, every_n_epochs: Annotated[int, Ge(1)], max_overhead: Annotated[float, Interval(gt=0, le=1)] | None
    ) -> None:
        self.budget = PlotBudget(every_n_epochs, max_overhead)
        self.evaluations: dict[str, Evaluation] = {}
        self._collector: Collector | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.budget.start()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING
        if not trainer.sanity_checking and (not fitting or self.budget.due(trainer)):
            self._collector = Collector()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collector = Collector()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._collector is not None:
            assert isinstance(outputs, Tensor)
            self._collector.add(batch, outputs)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    def _finish(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        collector = self._collector
        self._collector = None
        if collector is None:
            return
        assert isinstance(pl_module, LitClassifier)
        with self.budget.spending():
            predictions = collector.gather()
            if predictions is None:
                return
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            mistakes = torch.from_numpy(predictions.index[predictions.mistakes])
            inputs = datamodule.samples(split, mistakes).cpu().numpy()
            drawn = trainer.state.fn != TrainerFn.VALIDATING  # validating the best epoch again is for the report
            explained = explain(pl_module, predictions, partial(datamodule.samples, split)) if drawn else ""
            names, files = pl_module.class_names, datamodule.files(split)
            evaluation = Evaluation(names, files, predictions, inputs, explained)
            left_out = [name for name, value in evaluation.scores.items() if math.isnan(value)]
            left_out += pl_module.metrics.names
            scores = {f"{split}/{name}": value for name, value in evaluation.scores.items() if name not in left_out}
            if trainer.state.fn != TrainerFn.FITTING:
                self.evaluations[split] = evaluation
                pl_module.log_dict(scores, logger=False, rank_zero_only=True)
            board = tensorboard_of(trainer)
            if board and drawn:
                board.log_metrics(scores, step=trainer.current_epoch)
                for name, image in draw(evaluation).items():
                    board.log_image(f"{split}/{name}", image, trainer.current_epoch)
