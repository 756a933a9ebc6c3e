"""Freezing: keeps parameters fixed for the whole run or until an epoch."""

import math
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
        unfreeze_epoch: 0-based epoch from which on all of them are trained; or a list with the epoch of each pattern,
            for gradual unfreezing (Howard and Ruder, arXiv:1801.06146, section 3.3); null: never. A parameter that
            several patterns match is frozen until the last of their epochs.

    Raises:
        UserError: a pattern matches no parameter, all parameters are frozen, there are none to unfreeze, or a list of
            epochs is not as long as that of the patterns.
    """

    def __init__(
        self, net: nn.Module, freeze: list[str] | Literal["body"], unfreeze_epoch: int | list[int] | None
    ) -> None:
        self.body = freeze == "body"
        patterns = ["body"] if freeze == "body" else freeze
        epochs = unfreeze_epoch if isinstance(unfreeze_epoch, list) else [unfreeze_epoch] * len(patterns)
        if len(epochs) != len(patterns) or (self.body and epochs is unfreeze_epoch):
            fix = "give one number, or patterns in lit_module.freeze and the epoch of each"
            raise UserError(f"lit_module.unfreeze_epoch: {epochs} for lit_module.freeze={freeze}; {fix}")
        self.epochs: dict[str, float] = {}  # by parameter; infinite: never
        for pattern, epoch in zip(patterns, epochs, strict=True):
            names = body_parameters(net) if self.body else matching_names(net, pattern, "lit_module.freeze")
            for name in names:
                self.epochs[name] = max(self.epochs.get(name, 0), math.inf if epoch is None else epoch)
        if unfreeze_epoch is not None and not self.epochs:
            raise UserError("lit_module.unfreeze_epoch: nothing is frozen; set lit_module.freeze")
        if self.epochs.keys() >= {name for name, _ in net.named_parameters()}:
            raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
        self.net = net
        self.reset()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.apply(trainer.current_epoch, trainer.world_size)

    on_train_start = on_train_epoch_start  # a run resumed within an epoch does not start it again

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drops the gradients of frozen parameters, which DDP computes because it expects one for each parameter that
        was trainable when it was built."""
        for parameter in self._frozen_in(trainer.current_epoch):
            parameter.grad = None

    def reset(self) -> None:
        """Sets requires_grad for building an optimizer or DDP: True for parameters that are unfrozen later.

        `apply` must be called before the next step.
        """
        for name, parameter in self.net.named_parameters():
            if name in self.epochs:
                parameter.requires_grad = self.epochs[name] < math.inf

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
        if world_size == 1:
            for name, parameter in self.net.named_parameters():
                if name in self.epochs:
                    parameter.requires_grad = id(parameter) not in frozen_ids

    def _frozen_in(self, epoch: int) -> list[nn.Parameter]:
        """Looked up by name, because a strategy may replace the parameter objects."""
        return [parameter for name, parameter in self.net.named_parameters() if epoch < self.epochs.get(name, 0)]
