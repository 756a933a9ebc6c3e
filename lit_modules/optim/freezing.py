"""Freezing: which parameters do not learn, for the whole run or up to an epoch."""

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from conf.errors import UserError
from lit_modules.optim.param_groups import matching


class Freezing(Callback):
    """Sets requires_grad to False for every parameter whose name fits a pattern (`*` stands for any text).

    What is frozen depends on the epoch alone, so that a resumed run needs no more than that. Parameters that will learn
    later are in the optimizer from the start: without a gradient, it leaves them alone.

    Args:
        net: whose parameters; names count from it.
        patterns: of names, such as `blocks.0.*`.
        until: the epoch, from 0 on, in which all of them begin to learn; null: none.

    Raises:
        UserError: a pattern fits no parameter, or there is none to unfreeze.
    """

    def __init__(self, net: nn.Module, patterns: list[str], until: int | None) -> None:
        self.names = {name for pattern in patterns for name in matching(net, pattern, "lit_module.freeze")}
        if until is not None and not self.names:
            raise UserError("lit_module.unfreeze_epoch: nothing is frozen; name what is by lit_module.freeze")
        if until is not None and until < 1:
            raise UserError(f"lit_module.unfreeze_epoch: must be 1 or more, not {until}; leave it out")
        if self.names.issuperset(name for name, _ in net.named_parameters()):
            raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
        self.net = net
        self.until = until
        self.release()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.hold(trainer.current_epoch, trainer.world_size)

    on_train_start = on_train_epoch_start  # for a run resumed within an epoch, whose start is not called again

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On several ranks DDP waits for the gradients that it was told of at the start: they are made, and dropped."""
        for parameter in self._held(trainer.current_epoch):
            parameter.grad = None

    @property
    def frozen(self) -> list[nn.Parameter]:
        """By name, for a strategy may put other objects in their place."""
        return [parameter for name, parameter in self.net.named_parameters() if name in self.names]

    def release(self) -> None:
        """Lets an optimizer, or DDP, that is built now take in what learns later; `hold` comes before the next step."""
        for parameter in self.frozen:
            parameter.requires_grad = self.until is not None

    def hold(self, epoch: int, world_size: int) -> None:
        """Freezes what is frozen in this epoch. A layer whose parameters all are is in eval mode: a frozen BatchNorm
        keeps its statistics, too."""
        held = {id(parameter) for parameter in self._held(epoch)}
        for layer in self.net.modules():
            if own := list(layer.parameters(recurse=False)):
                layer.training = any(id(parameter) not in held for parameter in own)  # not of what is in it
        if self.until is not None and world_size == 1:
            for parameter in self.frozen:
                parameter.requires_grad = not held

    def _held(self, epoch: int) -> list[nn.Parameter]:
        return self.frozen if self.until is None or epoch < self.until else []
