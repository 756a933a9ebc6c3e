"""Checkpoints and weights: written whole or not at all, and read without running what stands in them."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from conf.files import write_durably


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning stages checkpoints in $TMPDIR and moves them, which between file systems is not atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_durably(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Only tensors and plain values, on the CPU first, so that a checkpoint from a GPU loads without one."""
        return torch.load(path, map_location="cpu", weights_only=True)
