"""Writing files so that whatever happens meanwhile, the old file or the new one is there, whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from conf.errors import UserError


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning stages checkpoints in $TMPDIR and moves them, which between file systems is not atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_durably(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Only tensors and plain values, on the CPU first, so that a checkpoint from a GPU loads without one."""
        return torch.load(path, map_location="cpu", weights_only=True)


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
