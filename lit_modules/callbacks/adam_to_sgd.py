"""AdamToSGD: switches to SGD when validation accuracy oscillates under Adam."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import SGD, Adam, NAdam, Optimizer, RAdam
from tqdm import tqdm

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.optim.param_groups import build_optimizer
from lit_modules.optim.schedulers import check_transferable, transfer_schedule


class AdamToSGD(Callback):
    """Switches from Adam to SGD once, at the end of an epoch, when val/acc oscillates.

    A jump is an epoch whose accuracy is above both neighbors, or below both, by at least `min_jump`. A monotone
    sequence has none; in a random sequence two of three inner values are turning points (Bienaymé 1874; the
    turning-point test of Kendall, "Time-Series", 1973). The switch happens when at least half of the inner values of
    the last `window` epochs are jumps.

    The learning-rate schedule continues with the new base rates. The decision depends only on the metric, which is
    equal on all ranks.

    Args:
        window: number of most recent validated epochs to consider.
        min_jump: smallest change of accuracy that counts.
        lr_scale: step length of SGD divided by that of Adam, see `rate_ratio`; 1, as in SWATS, keeps the step length
            under which the accuracy oscillated. Parameter groups keep their relative rates.
        momentum, weight_decay: of SGD.
    """

    needs_whole_network = True

    def __init__(
        self,
        window: Annotated[int, Ge(3)],
        min_jump: Annotated[float, Interval(gt=0, lt=1)],
        lr_scale: Annotated[float, Gt(0)],
        momentum: Annotated[float, Interval(ge=0, lt=1)],
        weight_decay: Annotated[float, Ge(0)],
    ) -> None:
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
        """Restores the choice of the optimizer before it is built and loads its state."""
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
            problem = f"adam_to_sgd requires Adam, AdamW, NAdam or RAdam, not {name}"
            raise UserError(f"lit_module.optimizer: {problem}; choose one of them")
        self._build(pl_module, lr=1.0)  # raises UserError for group options that only Adam has
        for config in trainer.lr_scheduler_configs:
            check_transferable(config.scheduler)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs before the checkpoint of the epoch is saved, because Lightning calls checkpoint callbacks last."""
        assert isinstance(pl_module, LitClassifier)
        if self.chosen_lr is None and "val/acc" in pl_module.epoch_row:
            self.scores = [*self.scores, pl_module.epoch_row["val/acc"]][-self.window :]
            num_jumps = jumps(self.scores, self.min_jump)
            if len(self.scores) == self.window and num_jumps >= (self.window - 2) / 2:
                self._switch(trainer, pl_module, num_jumps)
        row = {"adam_to_sgd/jumps": jumps(self.scores, self.min_jump), "adam_to_sgd/sgd": self.chosen_lr is not None}
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value) for name, value in row.items()}, trainer.current_epoch)

    def _switch(self, trainer: Trainer, pl_module: LitClassifier, num_jumps: int) -> None:
        (adam,) = trainer.optimizers
        old_lr = adam.defaults["lr"]
        self.chosen_lr = old_lr * rate_ratio(adam) * (1 - self.momentum) * self.lr_scale
        sgd = self._build(pl_module, self.chosen_lr)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        transfer_schedule(adam, sgd, self.chosen_lr / old_lr, schedulers)
        trainer.strategy.optimizers = [sgd]
        pl_module.freezing.apply(trainer.current_epoch, trainer.world_size)
        if trainer.is_global_zero:
            name = type(adam).__name__
            tqdm.write(
                f"val/acc oscillates ({num_jumps} of {self.window} epochs): switching from {name} to SGD, "
                f"lr {old_lr:.2g} → {self.chosen_lr:.2g}"
            )

    def _build(self, pl_module: LitClassifier, lr: float) -> Optimizer:
        pl_module.freezing.reset()
        return build_optimizer(pl_module.net, partial(self.sgd, lr=lr), pl_module.param_groups, pl_module.layer_decay)


def jumps(scores: list[float], min_jump: float) -> int:
    """The number of inner scores above both neighbors, or below both, by at least `min_jump`."""
    changes = [after - before for before, after in pairwise(scores)]
    return sum(
        change * next_change < 0 and min(abs(change), abs(next_change)) >= min_jump
        for change, next_change in pairwise(changes)
    )


def rate_ratio(adam: Optimizer) -> float:
    """The learning rate of SGD without momentum divided by Adam's, for equal step lengths.

    At this rate, the projection of SGD's step onto Adam's step equals Adam's step. Keskar and Socher, arXiv:1712.07628
    (SWATS), section 3, but with Adam's running mean of the gradient instead of an average over steps, so that training
    steps need no additional work.
    """
    squares, products = 0.0, 0.0
    for group in adam.param_groups:
        beta1, beta2 = group["betas"]
        for parameter in group["params"]:
            if state := adam.state.get(parameter):  # none if the parameter never had a gradient
                mean = state["exp_avg"].double() / (1 - beta1 ** float(state["step"]))
                square = state["exp_avg_sq"].double() / (1 - beta2 ** float(state["step"]))
                step = mean / (square.sqrt() + group["eps"])
                squares += float(step.square().sum())
                products += float((step * mean).sum())
    return squares / products if products else 1.0
