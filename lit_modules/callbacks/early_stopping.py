"""EarlyStopping: Lightning's, which a resumed run remembers."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Ends a run whose `monitor` has not improved for `patience` validated epochs. Resumed, for its test was cut off,
    such a run trains no further; only with more patience does it go on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True
