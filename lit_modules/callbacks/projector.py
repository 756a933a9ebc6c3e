"""Projector: inputs of the last linear layer in TensorBoard's embedding projector."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.drawing import shown_label
from lit_modules.evaluation.predictions import evenly_spaced
from lit_modules.loggers.tensorboard import tensorboard_of


class Projector(Callback):
    """Logs the features of test samples as an embedding.

    Args:
        samples: number of samples, evenly spaced over the test samples of rank 0.
    """

    def __init__(self, samples: Annotated[int, Ge(1)]) -> None:
        self.samples = samples
        self._samples: list[tuple[Tensor, Tensor, Tensor]] = []
        self._features = torch.empty(0)
        self._size = 0  # of the first test batch
        self._handle: Any = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        layers = [layer for layer in pl_module.net.modules() if isinstance(layer, nn.Linear)]
        if layers and trainer.is_global_zero and tensorboard_of(trainer):
            self._samples = []
            self._size = 0
            self._handle = layers[-1].register_forward_pre_hook(self._record)

    def _record(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0].detach().float()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._handle:
            self._size = self._size or len(batch.labels)
            rows = evenly_spaced(self.samples, batch_idx, self._size, int(trainer.num_test_batches[dataloader_idx]))
            inputs = trainer.datamodule.samples("test", batch.index[rows])  # type: ignore[attr-defined]
            self._samples.append((self._features[rows], batch.labels[rows], inputs))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        board = tensorboard_of(trainer)
        if not self._handle or board is None:
            return
        self._handle.remove()
        self._handle = None
        features = torch.cat([sample[0] for sample in self._samples])[: self.samples].cpu()
        labels = torch.cat([sample[1] for sample in self._samples])[: self.samples].cpu()
        inputs = torch.cat([sample[2] for sample in self._samples])[: self.samples].cpu()
        names = [shown_label(label, pl_module.class_names) for label in labels.numpy()]
        images = inputs.float().expand(-1, 3, -1, -1) if inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None
        board.log_embedding("test", features.flatten(1), names, images, trainer.current_epoch)
