"""Checkpoints and weights: written whole or not at all, and read without running what stands in them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from conf.errors import UserError
from conf.files import write_durably


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning stages checkpoints in $TMPDIR and moves them, which between file systems is not atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_durably(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Only tensors and plain values, on the CPU first, so that a checkpoint from a GPU loads without one."""
        return torch.load(path, map_location="cpu", weights_only=True)


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


def refuse_other_weights(theirs: dict[str, Tensor], ours: dict[str, Tensor], file: Path, key: str) -> None:
    """Raises UserError unless what a file holds has the names and shapes of what is here."""
    for name in sorted(ours.keys() | theirs.keys()):
        here, there = (tuple(w[name].shape) if name in w else "missing" for w in (ours, theirs))
        if here != there:
            fix = "choose the same lit_module.net and classes"
            raise UserError(f"{key}: {name} is {there} in {file}, {here} here; {fix}")
