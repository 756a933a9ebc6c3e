"""FastEpochLoop: replaces Lightning's loop over an epoch's batches, for trainer=fast."""

from importlib.metadata import version

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

# The loop uses private parts of Lightning, so it runs with the releases that its tests have passed with.
TESTED = ("2.6.",)


class FastEpochLoop(Callback):
    """Installs `lit_modules.trainer.fast_epoch_loop.EpochLoop`; keeps Lightning's own loop, and says so, where the
    installed Lightning was not tested."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        installed = version("pytorch-lightning")
        if not installed.startswith(TESTED):
            if trainer.is_global_zero:
                tqdm.write(f"trainer=fast: not tested with pytorch-lightning {installed}; using Lightning's loop")
            return
        from lit_modules.trainer.fast_epoch_loop import EpochLoop

        loop = EpochLoop(trainer, trainer.min_steps, trainer.max_steps)
        loop.val_loop = trainer.fit_loop.epoch_loop.val_loop  # which has its data already
        trainer.fit_loop.epoch_loop = loop
