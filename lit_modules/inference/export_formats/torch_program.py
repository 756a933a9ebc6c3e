"""`torch_export`: a program of torch.export; `safetensors`: its weights in a file of their own."""

from collections.abc import Callable
from io import BytesIO

import torch
from torch import Tensor, nn

from lit_modules.inference.any_size import AnySize

# Bytes by file name, and how they compute when loaded: inputs → probabilities.
Exported = tuple[dict[str, bytes], Callable[[Tensor], Tensor]]


def dynamic_shapes(model: nn.Module) -> dict[str, dict[int, torch.export.Dim]]:
    """The dimensions of the inputs that differ between calls."""
    names = ["batch", "height", "width"] if isinstance(model, AnySize) else ["batch"]
    return {"inputs": {dim: torch.export.Dim(name) for dim, name in enumerate(names)}}


def write_torch_export(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    program = torch.export.export(model, (inputs,), dynamic_shapes=dynamic_shapes(model))
    file = BytesIO()
    torch.export.save(program, file, extra_files={"contract.json": contract})
    file.seek(0)
    return {"model.pt2": file.getvalue()}, torch.export.load(file).module()


def write_safetensors(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    from safetensors.torch import load, save

    files, module = write_torch_export(model, inputs, contract)
    assert isinstance(module, nn.Module)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    content = save(weights, {"contract": contract})
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()  # so that the weights of the file are verified
    module.load_state_dict(load(content))
    return files | {"model.safetensors": content}, module
