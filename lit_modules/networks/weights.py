"""Loading and comparing state dicts."""

import pickle
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from conf.errors import UserError


def read_weights(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a state_dict, or of a checkpoint that contains one. Executes no code from the file.

    Args:
        file: the file.
        key: config key of the file, for the error message.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        weights = content.get("state_dict", content)
        return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{key}: {file} has no readable weights; give a model.pt or .ckpt") from error


def check_same_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], file: Path, key: str) -> None:
    """Raises UserError unless the weights have the expected names and shapes; `file` and `key` are for the message."""
    for name in sorted(expected.keys() | weights.keys()):
        shape = _shape_of(weights, name)
        expected_shape = _shape_of(expected, name)
        if shape != expected_shape:
            fix = "choose the same lit_module.net and classes"
            raise UserError(f"{key}: {name} is {shape} in {file}, {expected_shape} in this network; {fix}")


def _shape_of(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | Literal["missing"]:
    return tuple(weights[name].shape) if name in weights else "missing"
