"""Dashboard: inputs, weights, gradients and feature maps in TensorBoard."""

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from conf.text import printable
from lit_modules.callbacks.model_summary import describe
from lit_modules.callbacks.plot_budget import PlotBudget
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.drawing import shown_label
from lit_modules.evaluation.figures import png
from lit_modules.evaluation.image_grid import feature_map_grid, filter_grid, grid
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.predictions import evenly_spaced
from lit_modules.loggers.tensorboard import TensorBoard, tensorboard_of

SAMPLES = 32
# Histograms of larger tensors use every n-th value.
MAX_VALUES = 100_000


class Dashboard(Callback):
    """Logs the state of the network.

    At the start: a table of the layers, and the config. Every epoch: the gradient norm of the last step, before
    clipping. In epochs within the `PlotBudget`: a sample of the inputs (augmented in training, plain in validation),
    the filters of the first layer, feature maps, and histograms of weights and of the gradients of the last step.

    Args:
        every_n_epochs, max_overhead: see `PlotBudget`.
    """

    def __init__(
        self, every_n_epochs: Annotated[int, Ge(1)], max_overhead: Annotated[float, Interval(gt=0, le=1)] | None
    ) -> None:
        self.budget = PlotBudget(every_n_epochs, max_overhead)
        self._board: TensorBoard | None = None
        self._epoch = -1
        self._due = False  # whether to draw in this epoch
        self._samples: dict[str, list[tuple[Tensor, Tensor]]] = {}  # inputs and labels, by split
        self._size = 0  # of the first validation batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        self.budget.start()
        self._epoch = -1
        self._board = tensorboard_of(trainer) if trainer.is_global_zero else None
        if self._board and trainer.global_step == 0:
            config = (Path(trainer.default_root_dir) / "config.yaml").read_text(encoding="utf-8")
            self._board.log_text("run/network", _network_table(pl_module), 0)
            self._board.log_text("run/config", "\n".join(f"    {printable(line)}" for line in config.splitlines()), 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._epoch == trainer.current_epoch:
            return
        self._epoch = trainer.current_epoch  # may be resumed within the epoch
        self._due = self.budget.due(trainer) and self._board is not None
        if self._due:
            inputs = _inputs(trainer, "train", batch, slice(SAMPLES))
            self._samples = {"train": [(inputs, batch.labels[:SAMPLES].clone())], "val": []}

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not self._due:
            return
        if not self._samples["val"]:
            assert isinstance(pl_module, LitClassifier)
            self._size = len(batch.labels)
            with self.budget.spending():
                if figure := feature_map_grid(pl_module, pl_module.net, _inputs(trainer, "val", batch, slice(1))):
                    self._draw(trainer, "network/feature_maps", figure)
        kept = evenly_spaced(SAMPLES, batch_idx, self._size, int(trainer.num_val_batches[dataloader_idx]))
        self._samples["val"].append((_inputs(trainer, "val", batch, kept), batch.labels[kept].clone()))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._board and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            with self.budget.spending():
                parameters = pl_module.named_parameters()
                gradients = {name: value.grad for name, value in parameters if value.grad is not None}
                norm = float(torch.nn.utils.get_total_norm(list(gradients.values())))
                self._board.log_metrics({"gradient_norm": norm}, step=trainer.current_epoch)
                if self._due:
                    self._draw_histograms(trainer, "gradients", gradients)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        if self._due:
            with self.budget.spending():
                self._draw_histograms(trainer, "weights", dict(pl_module.named_parameters()))
                if figure := filter_grid(pl_module.net):
                    self._draw(trainer, "network/filters", figure)
                for split, stage in (("train", "training"), ("val", "validation")):
                    if self._samples[split]:
                        self._draw_inputs(trainer, pl_module, split, f"Network inputs in {stage}")
        self._due = False  # validation of the best epoch after training is not drawn

    def _draw_inputs(self, trainer: Trainer, module: LitClassifier, split: str, title: str) -> None:
        samples = self._samples[split]
        inputs = torch.cat([batch_inputs for batch_inputs, _ in samples])[:SAMPLES]
        labels = torch.cat([batch_labels for _, batch_labels in samples])[:SAMPLES]
        captions = [shown_label(label, module.class_names) for label in labels.cpu().numpy()]
        self._draw(trainer, f"inputs/{split}", grid(list(inputs.float().cpu().numpy()), captions, title))

    def _draw(self, trainer: Trainer, tag: str, figure: Figure) -> None:
        assert self._board
        self._board.log_image(tag, png(figure), trainer.current_epoch)

    def _draw_histograms(self, trainer: Trainer, group: str, tensors: dict[str, Tensor]) -> None:
        assert self._board
        for name, tensor in tensors.items():
            values = tensor.detach().flatten()
            values = values[:: -(-len(values) // MAX_VALUES)].float()
            finite = values[values.isfinite()]  # 16-mixed skips steps with non-finite gradients
            if len(finite):
                self._board.log_histogram(f"{group}/{name}", finite.cpu().numpy(), trainer.current_epoch)


def _inputs(trainer: Trainer, split: str, batch: Any, rows: slice) -> Tensor:
    """The samples of some rows of a batch as the whole network gets them, copied."""
    if not batch.features:
        return batch.inputs[rows].clone()
    epoch = trainer.current_epoch if split == "train" else None
    return trainer.datamodule.samples(split, batch.index[rows], epoch)  # type: ignore[attr-defined]


def _network_table(module: LitClassifier) -> str:
    """The table of ModelSummary in Markdown."""
    rows = []
    for layer in describe(module, module.input_shape):
        frozen = " frozen" if layer.trainable < layer.parameters else ""
        shape = "×".join(map(str, layer.output_shape))
        rows.append((layer.name, layer.kind, shape, f"{layer.parameters:,}{frozen}"))
    return markdown_table(("layer", "type", "output", "parameters"), rows)
