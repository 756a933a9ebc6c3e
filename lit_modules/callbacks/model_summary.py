"""ModelSummary: prints a table of the layers when training starts."""

from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from conf.text import printable
from lit_modules.classifier import LitClassifier

MAX_FROZEN = 8  # consecutive frozen layers that are listed one by one


class Layer(NamedTuple):
    """A module without children."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameter_shapes: dict[str, tuple[int, ...]]
    parameters: int
    trainable: int


class ModelSummary(Callback):
    """Prints the output shape, parameter shapes and parameter count of each layer; frozen layers in a row as one."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        if not trainer.is_global_zero:
            return
        layers = describe(pl_module, pl_module.input_shape)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("layer", "type", "output", "parameters"):
            table.add_column(heading, overflow="fold")
        table.add_column("count", justify="right")
        for layer in fold_frozen(layers):
            shapes = "  ".join(f"{name} {_shape(shape)}" for name, shape in layer.parameter_shapes.items())
            frozen = " frozen" if layer.trainable < layer.parameters else ""
            count = f"{layer.parameters:,}{frozen}" if layer.parameters else ""
            table.add_row(layer.name, layer.kind, _shape(layer.output_shape), shapes, count)
        console = Console(markup=False, emoji=False)
        console.print(table)
        total = sum(layer.parameters for layer in layers)
        trainable = sum(layer.trainable for layer in layers)
        samples = len(trainer.datamodule.files("train"))  # type: ignore[attr-defined]
        counts = f"{trainable:,} of {total:,} parameters" if trainable < total else f"{total:,} parameters"
        data = f"{samples:,} samples of {_shape(pl_module.input_shape)}"
        line = f"trains {counts}, starting from {pl_module.start}, on {data}"
        console.print(printable(line), highlight=False, soft_wrap=True)


def describe(module: nn.Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """The layers in the order of a forward pass of one sample. Does not change the module.

    A layer that is called several times is listed and counted once, with its last output shape.
    """
    outputs: dict[str, tuple[int, ...]] = {}
    leaves = {name: child for name, child in module.named_modules() if not any(child.children())}

    def record(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.update({name: tuple(output.shape[1:])})

    handles = [child.register_forward_hook(record(name)) for name, child in leaves.items()]
    modes = {child: child.training for child in module.modules()}
    try:
        device = next(module.parameters()).device
        with torch.no_grad():
            module.eval()(torch.zeros(1, *input_shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for child, mode in modes.items():
            child.training = mode
    layers = []
    for name, shape in outputs.items():
        parameters: dict[str, Tensor] = dict(leaves[name].named_parameters(recurse=False))
        layers.append(
            Layer(
                name,
                type(leaves[name]).__name__,
                shape,
                {key: tuple(value.shape) for key, value in parameters.items()},
                sum(value.numel() for value in parameters.values()),
                sum(value.numel() for value in parameters.values() if value.requires_grad),
            )
        )
    return layers


def fold_frozen(layers: list[Layer]) -> list[Layer]:
    """The layers, with one entry in place of those from the first to the last of consecutive frozen layers."""
    folded: list[Layer] = []
    frozen: list[Layer] = []
    for layer in [*layers, None]:
        if layer is not None and not layer.trainable and (layer.parameters or frozen):
            frozen.append(layer)
            continue
        if len(frozen) > MAX_FROZEN:
            first, last = frozen[0], frozen[-1]
            total = sum(part.parameters for part in frozen)
            name, kind = f"{first.name} … {last.name}", f"{len(frozen)} layers"
            folded.append(Layer(name, kind, last.output_shape, {}, total, 0))
        else:
            folded += frozen
        frozen = []
        if layer is not None:
            folded.append(layer)
    return folded


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
