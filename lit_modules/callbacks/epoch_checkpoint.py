"""EpochCheckpoint: a checkpoint each epoch, links to the best and the last, and the best weights as a plain file."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from conf.errors import UserError
from conf.files import write_durably
from lit_modules.classifier import LitClassifier


class EpochCheckpoint(ModelCheckpoint):
    """Writes `epoch=NNN.ckpt`, with `last.ckpt` and `best.ckpt` as links beside them.

    Args:
        dirpath: folder of the checkpoints.
        weights_file: gets the state_dict of the best epoch, on the CPU: `torch.load(file, weights_only=True)`.
        monitor: the score by which the best is chosen; of equal ones the latest, for it has trained longer.
        mode: whether its maximum or minimum is best.
        save_top_k: how many of the best epochs are kept; -1: all of them.
        every_n_epochs: epochs between two checkpoints.
    """

    def __init__(
        self,
        dirpath: str,
        weights_file: str,
        monitor: str,
        mode: Literal["min", "max"],
        save_top_k: int,
        every_n_epochs: int,
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
            save_on_train_epoch_end=True,  # validation is over by then, so one file holds all of the epoch
            enable_version_counter=False,
        )
        self.weights_file = Path(weights_file)

    @cached_property
    def state_key(self) -> str:
        """Lightning asks for it before every hook."""
        return super().state_key

    @property
    def last(self) -> Path:
        """The latest checkpoint: a link, or a file if that epoch is not kept otherwise."""
        return Path(str(self.dirpath)) / "last.ckpt"

    @property
    def best(self) -> Path:
        """The link to the best checkpoint so far."""
        return Path(str(self.dirpath)) / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """Called while a checkpoint is written, when its own score is known."""
        for path, score in self.best_k_models.items():  # in the order of epochs
            if score == self.best_model_score:
                self.best_model_path = path
        return super().state_dict()

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Of the best few, an equal one is kept instead of the oldest."""
        return super().check_monitor_top_k(trainer, current) or (
            current is not None and bool(current == self.kth_value)
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        if str(self.monitor).startswith("val/") and not pl_module.latest_val:
            trainer.save_checkpoint(self.last)  # an epoch without validation is none of the best
            return
        super().on_train_epoch_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            # Not among the best, so Lightning kept no file of this epoch; but it is where a resumed run goes on.
            trainer.save_checkpoint(self.last)
        if trainer.is_global_zero:
            self._publish_best()
        trainer.strategy.barrier("best checkpoint")  # which every rank may read from here on

    # Lightning's would find out, at every step, that none is to be saved.
    on_train_batch_end = Callback.on_train_batch_end

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.save_top_k == 0 or 0 < (trainer.max_epochs or 0) < (self.every_n_epochs or 1):
            raise UserError("callbacks.checkpoint: would keep no epoch; lower every_n_epochs or set save_top_k=-1")
        if trainer.is_global_zero:  # for a run that was killed between an epoch's checkpoint and its link
            self._publish_best()

    def _publish_best(self) -> None:
        best = Path(self.best_model_path)
        if not best.is_file() or (self.best.is_symlink() and self.best.readlink() == Path(best.name)):
            return
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        weights = {name: value for name, value in state.items() if name.startswith(("normalize.", "net."))}
        write_durably(self.weights_file, lambda file: torch.save(weights, file))
        temporary = self.best.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        os.symlink(best.name, temporary)
        os.replace(temporary, self.best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The folder may have been moved or renamed since: what it held is found under its new name."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        moved = dict(state_dict, dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = here(state_dict[key])
        moved["best_k_models"] = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(moved)
