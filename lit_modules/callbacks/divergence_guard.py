"""DivergenceGuard: a loss that is not a number ends the run before it reaches the weights."""

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from conf.errors import UserError


class DivergenceGuard(Callback):
    """Stops at a NaN or infinite loss. On a CPU that is before the backward pass. On a GPU, where looking at the loss
    would wait for the device in every step, it is at the latest before the next checkpoint or the epoch's end, so
    that no checkpoint ever holds such weights."""

    def __init__(self) -> None:
        self._finite: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finite = torch.ones((), dtype=torch.bool, device=pl_module.device)
        self._alone = trainer.world_size == 1

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert self._finite is not None
        if loss.is_cpu:
            finite = math.isfinite(loss.item())
            if not (finite and self._alone):
                self._check(trainer, finite)
        else:
            self._finite &= loss.detach().isfinite()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_weights(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A finite loss may have had gradients that were not."""
        if self._finite is not None:
            for parameter in pl_module.parameters():
                own = parameter.to_local() if isinstance(parameter, DTensor) else parameter  # of a shared out one
                self._finite &= own.detach().isfinite().all()
            self._check(trainer, bool(self._finite))

    def _check(self, trainer: Trainer, finite: bool) -> None:
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        if not trainer.is_global_zero:
            raise SystemExit(0)  # all ranks stop here, and the first one says why
        folder = Path(trainer.default_root_dir)
        last = folder / "checkpoints" / "last.ckpt"
        again = f"; {last.resolve()} is sound: go on by run={folder}" if last.exists() else ""
        raise UserError(
            f"lit_module.optimizer.lr: loss or weights are no longer finite at epoch {trainer.current_epoch + 1}, step "
            f"{trainer.global_step + 1}; lower it or set trainer.gradient_clip_val{again}"
        )
