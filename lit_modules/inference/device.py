"""The device and the precision of a prediction, without importing Lightning."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from conf.errors import UserError

MIXED = {"16-mixed": torch.float16, "16": torch.float16, "bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16}


def device_of(trainer: DictConfig) -> torch.device:
    """The first device of a config's `trainer.accelerator` and `trainer.devices`.

    Raises:
        UserError: there is no such device.
    """
    accelerator = str(trainer.accelerator)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        kind = next(kind for kind, present in available.items() if present)
    elif accelerator == "gpu":
        kind = "mps" if available["mps"] else "cuda"
    else:
        kind = accelerator
    if not available.get(kind):
        raise UserError(f"trainer.accelerator: {accelerator} is not available here; use devices=cpu")
    chosen = trainer.devices
    index = chosen[0] if isinstance(chosen, ListConfig) and chosen else 0
    if type(index) is not int:
        raise UserError(f"trainer.devices: {index!r} is not the number of a GPU; use devices=gpu")
    if kind != "cuda":
        return torch.device(kind)
    count = torch.cuda.device_count()
    if not -count <= index < count:
        raise UserError(f"trainer.devices: there is no GPU {index}; use devices=gpu")
    return torch.device(kind, index % count)


def autocast(device: torch.device, precision: Any) -> AbstractContextManager[Any]:
    """The context of a forward pass at a precision of the Trainer."""
    if str(precision) in MIXED:  # float16 is for GPUs; Lightning's Trainer too takes bfloat16 on a CPU
        return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else MIXED[str(precision)])
    return nullcontext()
