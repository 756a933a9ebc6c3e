"""DivergenceGuard: stops the run at a NaN or infinite loss."""

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from conf.errors import UserError


class DivergenceGuard(Callback):
    """Stops the run at a NaN or infinite loss, so that no checkpoint contains non-finite weights.

    On a CPU, the run stops before the backward pass. On a GPU, where reading the loss would synchronize each step, it
    stops before the next checkpoint or at the end of the epoch.
    """

    def __init__(self) -> None:
        self._finite: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finite = torch.ones((), dtype=torch.bool, device=pl_module.device)
        self._single_process = trainer.world_size == 1

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert self._finite is not None
        if loss.is_cpu:
            finite = math.isfinite(loss.item())
            if not (finite and self._single_process):
                self._check(trainer, finite)
        else:
            self._finite &= loss.detach().isfinite()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_weights(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Also checks the weights, because a finite loss may have non-finite gradients."""
        if self._finite is not None:
            for parameter in pl_module.parameters():
                local = parameter.to_local() if isinstance(parameter, DTensor) else parameter  # the shard of this rank
                self._finite &= local.detach().isfinite().all()
            self._check(trainer, bool(self._finite))

    def _check(self, trainer: Trainer, finite: bool) -> None:
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        if not trainer.is_global_zero:
            raise SystemExit(0)  # rank 0 reports the error
        folder = Path(trainer.default_root_dir)
        last = folder / "checkpoints" / "last.ckpt"
        resume = f"; {last.resolve()} is valid, resume with run={folder}" if last.exists() else ""
        raise UserError(
            f"lit_module.optimizer.lr: loss or weights are no longer finite at epoch {trainer.current_epoch + 1}, step "
            f"{trainer.global_step + 1}; lower it or set trainer.gradient_clip_val{resume}"
        )
