"""Writing files so that whatever happens meanwhile, the old file or the new one is there, whole."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from conf.errors import UserError


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


def write_durably(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a sibling temporary file, has it reach the disk, and renames it over `path`.

    Raises:
        UserError: the disk is full, say; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's own writer turns a full disk into a RuntimeError
        problem = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({problem}); make room, then go on by run=…") from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
