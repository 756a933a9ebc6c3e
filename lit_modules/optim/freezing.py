"""Freezing: keeps parameters fixed for the whole run or until an epoch."""

from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from conf.errors import UserError
from lit_modules.networks.head import body_parameters, head_of
from lit_modules.optim.param_groups import matching_names


class Freezing(Callback):
    """Sets requires_grad to False for every parameter whose name matches a pattern (`*` matches any text).

    The frozen parameters depend on the epoch only, so a resumed run needs no saved state. Parameters that are unfrozen
    later are in the optimizer from the start; it skips parameters without a gradient.

    Args:
        net: module that holds the parameters; names are relative to it.
        freeze: patterns of parameter names, such as `blocks.0.*`; or `body`: all but the head, see `networks.head`.
            Dropout in the body is off while it is frozen.
        unfreeze_epoch: 0-based epoch from which on all of them are trained; null: never.

    Raises:
        UserError: a pattern matches no parameter, all parameters are frozen, or there are none to unfreeze.
    """

    def __init__(self, net: nn.Module, freeze: list[str] | Literal["body"], unfreeze_epoch: int | None) -> None:
        self.body = freeze == "body"
        if self.body:
            self.names = body_parameters(net)
        else:
            self.names = {name for pattern in freeze for name in matching_names(net, pattern, "lit_module.freeze")}
        if unfreeze_epoch is not None and not self.names:
            raise UserError("lit_module.unfreeze_epoch: nothing is frozen; set lit_module.freeze")
        if self.names.issuperset(name for name, _ in net.named_parameters()):
            raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
        self.net = net
        self.unfreeze_epoch = unfreeze_epoch
        self.reset()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.apply(trainer.current_epoch, trainer.world_size)

    on_train_start = on_train_epoch_start  # a run resumed within an epoch does not start it again

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drops the gradients of frozen parameters, which DDP computes because it expects one for each parameter that
        was trainable when it was built."""
        for parameter in self._frozen_in(trainer.current_epoch):
            parameter.grad = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Looked up by name, because a strategy may replace the parameter objects."""
        return [parameter for name, parameter in self.net.named_parameters() if name in self.names]

    def reset(self) -> None:
        """Sets requires_grad for building an optimizer or DDP: True for parameters that are unfrozen later.

        `apply` must be called before the next step.
        """
        for parameter in self.parameters:
            parameter.requires_grad = self.unfreeze_epoch is not None

    def apply(self, epoch: int, world_size: int) -> None:
        """Freezes or unfreezes the parameters for an epoch.

        Layers whose parameters are all frozen are set to eval mode, so that a frozen BatchNorm keeps its statistics.
        """
        frozen_ids = {id(parameter) for parameter in self._frozen_in(epoch)}
        if self.body:
            head = set(head_of(self.net).modules())
            for layer in self.net.modules():
                layer.training = layer in head or not frozen_ids
        for layer in self.net.modules():
            own_parameters = list(layer.parameters(recurse=False))
            if own_parameters:
                # Not layer.train(), which would change its children as well.
                layer.training = any(id(parameter) not in frozen_ids for parameter in own_parameters)
        if self.unfreeze_epoch is not None and world_size == 1:
            for parameter in self.parameters:
                parameter.requires_grad = not frozen_ids

    def _frozen_in(self, epoch: int) -> list[nn.Parameter]:
        if self.unfreeze_epoch is None or epoch < self.unfreeze_epoch:
            return self.parameters
        return []
