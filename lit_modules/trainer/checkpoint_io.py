"""Checkpoints: written atomically, loaded without executing code."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from conf.errors import UserError
from conf.files import write_durably


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's TorchCheckpointIO with atomic writes.

    Lightning stages a checkpoint in $TMPDIR and moves it, which is not atomic between file systems.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_durably(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Load tensors and plain values, to the CPU, so that a checkpoint from a GPU loads on any machine."""
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one local .ckpt file; Lightning's would remove a folder too, or what a URL names.

        Raises:
            UserError: the path is no such file; a checkpoint may list any as its own.
        """
        file = Path(path)
        if file.suffix != ".ckpt" or ".." in file.parts or file.is_dir():
            raise UserError(f"{path}: is no checkpoint to be removed; restore the run from a backup")
        file.unlink(missing_ok=True)
