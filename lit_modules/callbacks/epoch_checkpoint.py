"""EpochCheckpoint: a checkpoint per epoch, links to the best and last, and the best weights."""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from conf.errors import UserError
from conf.files import write_durably
from lit_modules.classifier import LitClassifier
from lit_modules.runs import checkpoints


class EpochCheckpoint(ModelCheckpoint):
    """Writes `epoch=NNN.ckpt` and links to them, `last.ckpt` and `best.ckpt`.

    Args:
        dirpath: folder of the checkpoints.
        weights_file: file for the state_dict of the best epoch, for `torch.load(file, weights_only=True)`.
        monitor: metric that determines the best epoch; of equal epochs, the latest is best.
        mode: whether the maximum or the minimum is best.
        save_top_k: number of best epochs to keep; -1: all.
        every_n_epochs: epochs between checkpoints.
    """

    def __init__(
        self,
        dirpath: str,
        weights_file: str,
        monitor: str,
        mode: Literal["min", "max"],
        save_top_k: Annotated[int, Ge(-1)],
        every_n_epochs: Annotated[int, Ge(1)],
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="epoch={epoch:03d}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last="link",
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,  # after validation, so that the file contains its metrics
            enable_version_counter=False,
        )
        self.weights_file = Path(weights_file)

    @cached_property
    def state_key(self) -> str:
        """Cached, because Lightning reads it before every hook."""
        return super().state_key

    @property
    def last(self) -> Path:
        """The latest checkpoint: a link, or a file if that epoch is not among those kept."""
        return Path(str(self.dirpath)) / "last.ckpt"

    @property
    def best(self) -> Path:
        """The link to the best checkpoint so far."""
        return Path(str(self.dirpath)) / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Sets the best epoch to the latest of equal ones; called after the score of this epoch is known."""
        for path, score in self.best_k_models.items():  # ordered by epoch
            if score == self.best_model_score:
                self.best_model_path = path
        return super().state_dict()

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Also keeps an epoch equal to the worst of the best, which it replaces."""
        return super().check_monitor_top_k(trainer, current) or (
            current is not None and bool(current == self.kth_value)
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        if str(self.monitor).startswith("val/") and self.monitor not in pl_module.epoch_row:
            trainer.save_checkpoint(self.last)  # an epoch without validation is never best
            return
        super().on_train_epoch_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            # Not among the best, so Lightning saved no checkpoint; a resumed run starts from this one.
            trainer.save_checkpoint(self.last)
        if trainer.is_global_zero:
            self._publish_best()
        trainer.strategy.barrier("best checkpoint")  # any rank may read it afterwards

    # Lightning's hook decides at every step whether to save; this callback saves at the end of epochs only.
    on_train_batch_end = Callback.on_train_batch_end

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.save_top_k == 0 or 0 < (trainer.max_epochs or 0) < (self.every_n_epochs or 1):
            raise UserError("callbacks.checkpoint: would save no checkpoint; lower every_n_epochs or set save_top_k=-1")
        if trainer.is_global_zero:  # if the run was killed between saving a checkpoint and its link
            self._publish_best()

    def _publish_best(self) -> None:
        best = Path(self.best_model_path)
        if not best.is_file() or (self.best.is_symlink() and self.best.readlink() == Path(best.name)):
            return
        try:
            state = checkpoints.load(best, checkpoints.PREDICTABLE)["state_dict"]
        except ValueError as error:
            raise UserError(f"{best}: {error}; {checkpoints.FIX}") from error
        weights = {name: value for name, value in state.items() if name.startswith(("normalize.", "net."))}
        write_durably(self.weights_file, lambda file: torch.save(weights, file))
        temporary = self.best.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        os.symlink(best.name, temporary)
        os.replace(temporary, self.best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replaces the saved folder, which may have been moved, by the current one."""
        folder = Path(str(self.dirpath))

        def relocate(path: str) -> str:
            name = Path(path).name
            if path and not name.endswith(".ckpt"):  # it may be removed later
                raise ValueError(f"{path} is no checkpoint")
            return str(folder / name) if path else path

        state = dict(state_dict, dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = relocate(state_dict[key])
        state["best_k_models"] = {relocate(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state)
