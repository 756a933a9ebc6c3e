"""AdamToSGD: where validation accuracy jumps about under Adam, the run goes on with SGD."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import SGD, Adam, NAdam, Optimizer, RAdam
from tqdm import tqdm

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.optim.param_groups import build_optimizer
from lit_modules.optim.schedulers import check_transferable, transfer_schedule


class AdamToSGD(Callback):
    """Changes from Adam to SGD once, at the end of the epoch in which val/acc is seen to jump about.

    A jump is an epoch whose accuracy is above both of its neighbours, or below both, by `min_jump` or more. A steady
    rise has no such turning point; values in no order at all have one at two of three inner places (Bienaymé 1874; the
    turning-point test of Kendall, "Time-Series", 1973). The change comes when half of the inner places of the last
    `window` epochs are jumps.

    The schedule keeps its course, on the new base rates. The decision rests on the score alone, which all ranks share.

    Args:
        window: validated epochs that are looked at.
        min_jump: smallest change of accuracy that counts.
        lr_scale: length of SGD's steps over Adam's, see `rate_ratio`; parameter groups keep their proportions.
            At 1, which SWATS takes, they are still those under which the accuracy jumped.
        momentum, weight_decay: SGD's.
    """

    needs_whole_network = True

    def __init__(self, window: int, min_jump: float, lr_scale: float, momentum: float, weight_decay: float) -> None:
        if window < 3:
            raise UserError(f"window: must be 3 epochs or more, not {window}; try 8")
        if not 0 < min_jump < 1:
            raise UserError(f"min_jump: must be between 0 and 1, not {min_jump}; try 0.01")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum: must be at least 0 and below 1, not {momentum}; try 0.9")
        if lr_scale <= 0:
            raise UserError(f"lr_scale: must be above 0, not {lr_scale}; try 0.1")
        self.window = window
        self.min_jump = min_jump
        self.lr_scale = lr_scale
        self.momentum = momentum
        self.sgd: Callable[..., SGD] = partial(SGD, momentum=momentum, weight_decay=weight_decay)
        self.scores: list[float] = []
        self.chosen_lr: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "chosen_lr": self.chosen_lr}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called before the optimizer is built, whose saved state is SGD's if the change has been."""
        assert isinstance(pl_module, LitClassifier)
        state = checkpoint["callbacks"][self.state_key]
        self.scores, self.chosen_lr = state["scores"], state["chosen_lr"]
        if self.chosen_lr is not None:
            pl_module.optimizer = partial(self.sgd, lr=self.chosen_lr)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        if self.chosen_lr is not None:
            return
        (optimizer,) = trainer.optimizers
        if not isinstance(optimizer, Adam | NAdam | RAdam):
            name = type(optimizer).__name__
            raise UserError(f"lit_module.optimizer: adam_to_sgd changes from Adam, AdamW, NAdam or RAdam, not {name}")
        self._build(pl_module, lr=1.0)  # refuses options that are Adam's own
        for config in trainer.lr_scheduler_configs:
            check_transferable(config.scheduler)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint is written, which Lightning leaves to the last callback."""
        assert isinstance(pl_module, LitClassifier)
        if self.chosen_lr is None and pl_module.latest_val:
            self.scores = [*self.scores, pl_module.latest_val["val/acc"]][-self.window :]
            found = jumps(self.scores, self.min_jump)
            if len(self.scores) == self.window and found >= (self.window - 2) / 2:
                self._change(trainer, pl_module, found)
        row = {"adam_to_sgd/jumps": jumps(self.scores, self.min_jump), "adam_to_sgd/sgd": self.chosen_lr is not None}
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in row.items()}, trainer.current_epoch)

    def _change(self, trainer: Trainer, pl_module: LitClassifier, found: int) -> None:
        (adam,) = trainer.optimizers
        old_lr = adam.defaults["lr"]
        self.chosen_lr = old_lr * rate_ratio(adam) * (1 - self.momentum) * self.lr_scale
        sgd = self._build(pl_module, self.chosen_lr)
        transfer_schedule(
            adam, sgd, self.chosen_lr / old_lr, [config.scheduler for config in trainer.lr_scheduler_configs]
        )
        trainer.strategy.optimizers = [sgd]
        pl_module.freezing.apply(trainer.current_epoch, trainer.world_size)
        if trainer.is_global_zero:
            name, epochs = type(adam).__name__, f"{found} of {self.window} epochs"
            tqdm.write(f"val/acc jumped in {epochs}: from {name} to SGD, lr {old_lr:.2g} → {self.chosen_lr:.2g}")

    def _build(self, pl_module: LitClassifier, lr: float) -> Optimizer:
        pl_module.freezing.reset()
        return build_optimizer(pl_module.net, partial(self.sgd, lr=lr), pl_module.param_groups, pl_module.layer_decay)


def jumps(scores: list[float], min_jump: float) -> int:
    """How many inner scores are above both neighbours, or below both, by `min_jump` or more."""
    steps = [after - before for before, after in pairwise(scores)]
    return sum(one * other < 0 and min(abs(one), abs(other)) >= min_jump for one, other in pairwise(steps))


def rate_ratio(adam: Optimizer) -> float:
    """SGD's rate without momentum as a multiple of Adam's: that at which SGD's step, projected on Adam's, is Adam's.

    Keskar and Socher, arXiv:1712.07628 (SWATS), section 3, with Adam's running mean of the gradient where they take
    each step's gradient and average afterwards. Both are in the optimizer's state, so that no training step costs more.
    """
    squares, products = 0.0, 0.0
    for group in adam.param_groups:
        beta1, beta2 = group["betas"]
        for parameter in group["params"]:
            if state := adam.state.get(parameter):  # none where there has been no gradient
                mean = state["exp_avg"].double() / (1 - beta1 ** float(state["step"]))
                square = state["exp_avg_sq"].double() / (1 - beta2 ** float(state["step"]))
                step = mean / (square.sqrt() + group["eps"])
                squares += float(step.square().sum())
                products += float((step * mean).sum())
    return squares / products if products else 1.0
