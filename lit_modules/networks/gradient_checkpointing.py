"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conf.errors import UserError

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_blocks(net: nn.Module) -> None:
    """Keeps only the inputs of each block of a network in training, in place.

    Chen et al., arXiv:1604.06174. Gradients, weights and statistics have the same bits, and state dicts the same names.

    Raises:
        UserError: the network has no blocks, see `blocks_of`.
    """
    blocks = list(blocks_of(net))
    if not blocks:
        name = type(net).__name__
        problem = f"{name} has no nn.Sequential or nn.ModuleList of blocks"
        raise UserError(f"lit_module.gradient_checkpointing: {problem}; leave it out")
    for block in blocks:
        # A method, which a copy of the block binds to itself.
        block.forward = MethodType(_checkpointed_forward, block)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of lists that have layers themselves, such as residual blocks; of stages, the blocks in them.

    A list is an `nn.Sequential`, `nn.ModuleList` or `nn.ModuleDict`.
    """
    for child in module.children():
        if isinstance(module, LISTS) and any(child.children()) and not _has_blocks(child):
            yield child
        else:
            yield from blocks_of(child)


def _has_blocks(module: nn.Module) -> bool:
    """Whether a module holds a list whose layers have two levels of layers below; one level is that of conv and norm.

    An nn.Sequential itself needs one level only.
    """
    for layers in module.modules():
        if isinstance(layers, LISTS):
            depth = max(map(_depth, layers.children()), default=0)
            if depth > 1 or (layers is module and depth == 1 and type(module) in LISTS):
                return True
    return False


def _depth(module: nn.Module) -> int:
    """Levels of layers below a module."""
    return max((1 + _depth(child) for child in module.children()), default=0)


def _checkpointed_forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    if torch.compiler.is_compiling():  # the compiled backward pass changes no buffers
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
    return checkpoint(
        forward,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _with_buffers(block, buffers)),
        **options,
    )


@contextmanager
def _with_buffers(block: nn.Module, buffers: dict[str, Tensor]) -> Iterator[None]:
    """Gives a block the buffers that it had in the forward pass, so that BatchNorm counts no batch twice."""
    current = dict(block.named_buffers())
    _set_buffers(block, buffers)
    try:
        yield
    finally:
        _set_buffers(block, current)


def _set_buffers(block: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        layer, _, key = name.rpartition(".")
        setattr(block.get_submodule(layer), key, buffer)
