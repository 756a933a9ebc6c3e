"""FrozenBody: computes the outputs of a frozen body once, and trains the head on them."""

import math
from hashlib import blake2b
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from tqdm import tqdm

from lit_modules.networks.head import body_features, ends_with_head, head_of
from lit_modules.optim.losses import takes_inputs


class FrozenBody(Callback):
    """Before training, replaces the samples of each batch by what the body makes of them, its `features`.

    The same as running the body in every step, up to rounding, and as many times faster as the body is larger than the
    head. Checkpoints hold the whole network. Where the inputs of the body differ in each epoch, or the head is not the
    last layer, it says so and changes nothing.

    Args:
        until_epoch: from which on the body is trained; infinite: never.
    """

    needs_whole_network = True
    chosen_by = "lit_module.freeze=body"

    def __init__(self, until_epoch: float) -> None:
        self.until_epoch = until_epoch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]

        def body(inputs: Tensor) -> Tensor:
            with trainer.precision_plugin.forward_context():
                return body_features(module.net, module.normalize(inputs))

        samples = torch.rand(2, *module.input_shape, generator=torch.Generator().manual_seed(0)).to(module.device)
        reason = datamodule.why_not_precomputed
        if self.until_epoch < math.inf:
            reason = f"it is trained from epoch {self.until_epoch} on"
        elif takes_inputs(module.loss):
            reason = f"{type(module.loss).__name__} needs the samples"
        elif not ends_with_head(module.net, module.normalize(samples)):
            reason = "the layer of the logits is not the last of the network"
        if reason:
            if trainer.is_global_zero:
                tqdm.write(f"the frozen body runs in every step, because {reason}")
            return
        name = f"{_digest(module.normalize, module.net, body(samples))} {trainer.precision} on {module.device.type}"
        datamodule.precompute(body, name)


def _digest(normalize: nn.Module, net: nn.Module, features: Tensor) -> str:
    """Identifies a body by its layers, its weights, and what it makes of some samples, `features`."""
    digest = blake2b(repr(net).encode(), digest_size=16)
    head = {id(value) for value in head_of(net).state_dict(keep_vars=True).values()}
    for layers in (normalize, net):
        for name, value in layers.state_dict(keep_vars=True).items():
            if id(value) not in head:
                digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    scaled = features.float() / features.abs().max().clamp(min=1e-12)
    digest.update(scaled.round(decimals=3).cpu().numpy().tobytes())
    return digest.hexdigest()
