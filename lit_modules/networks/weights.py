"""State dicts: read without running code, matched by name and shape."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from conf.errors import UserError


def read_weights(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a file by name: of a plain state_dict, or of a checkpoint that holds one. Runs nothing in it.

    Raises:
        UserError: it cannot be read; named by `key`, which gave the file.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        weights = found.get("state_dict", found)
        return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(f"{key}: {file} holds no weights that can be read; give a model.pt or .ckpt") from error


def check_same_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor], file: Path, key: str) -> None:
    """Raises UserError unless what a file holds has the names and shapes of what is here."""
    for name in sorted(ours.keys() | theirs.keys()):
        here, there = (tuple(w[name].shape) if name in w else "missing" for w in (ours, theirs))
        if here != there:
            fix = "choose the same lit_module.net and classes"
            raise UserError(f"{key}: {name} is {there} in {file}, {here} here; {fix}")
