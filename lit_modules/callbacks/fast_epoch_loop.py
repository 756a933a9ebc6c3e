"""FastEpochLoop: replaces Lightning's training epoch loop, for trainer=fast."""

from importlib.metadata import version

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

# Releases that the loop was tested with; it uses private parts of Lightning.
TESTED = ("2.6.",)


class FastEpochLoop(Callback):
    """Installs `lit_modules.trainer.fast_epoch_loop.EpochLoop`.

    With an untested release of Lightning, it prints a notice and keeps Lightning's loop.
    """

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
        loop.val_loop = trainer.fit_loop.epoch_loop.val_loop  # already has its dataloaders
        trainer.fit_loop.epoch_loop = loop
