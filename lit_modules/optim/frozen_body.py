"""FrozenBody: computes the outputs of a frozen body once, and trains the head on them."""

from hashlib import blake2b
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from tqdm import tqdm

from lit_modules.networks.head import body_features, head_of


class FrozenBody(Callback):
    """Before training, replaces the samples of each batch by what the body makes of them, its `features`.

    The same as running the body in every step, up to rounding, and as many times faster as the body is larger than the
    head. Checkpoints hold the whole network; the test runs all of it. Where the inputs of the body differ in each
    epoch, or the head is not the last layer, it says so and changes nothing.

    Args:
        until_epoch: from which on the body is trained; None: never.
    """

    needs_whole_network = True

    def __init__(self, until_epoch: int | None) -> None:
        self.until_epoch = until_epoch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]

        def body(inputs: Tensor) -> Tensor | None:
            with trainer.precision_plugin.forward_context():
                return body_features(module.net, module.normalize(inputs))

        reason = datamodule.why_not_precomputed
        if self.until_epoch is not None:
            reason = f"it is trained from epoch {self.until_epoch} on"
        elif body(torch.zeros(1, *module.input_shape, device=module.device)) is None:
            reason = "the layer of the logits is not the last of the network"
        if reason:
            if trainer.is_global_zero:
                tqdm.write(f"the frozen body runs in every step, because {reason}")
            return
        arithmetic = f"{trainer.precision} on {module.device.type}"
        datamodule.precompute(body, f"{_digest(module.normalize, module.net)} {arithmetic}")


def _digest(normalize: nn.Module, net: nn.Module) -> str:
    """Identifies the weights of a body."""
    digest = blake2b(digest_size=16)
    head = {id(value) for value in head_of(net).state_dict(keep_vars=True).values()}
    for layers in (normalize, net):
        for name, value in layers.state_dict(keep_vars=True).items():
            if id(value) not in head:
                digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
