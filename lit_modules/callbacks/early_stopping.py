"""EarlyStopping: stays stopped when the run is resumed."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Stops a run whose `monitor` has not improved for `patience` validated epochs.

    A stopped run that is resumed, for example because its test was interrupted, does not train further unless
    `patience` is increased.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True
