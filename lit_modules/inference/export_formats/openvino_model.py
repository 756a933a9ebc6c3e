"""`openvino`: an intermediate representation of OpenVINO."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from lit_modules.inference.export_formats.torch_program import Exported, dynamic_shapes

# By default OpenVINO computes in half precision where a processor has it.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def write_openvino(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    import openvino

    program = torch.export.export(model, (inputs,), dynamic_shapes=dynamic_shapes(model))
    with TemporaryDirectory() as folder:
        openvino.save_model(openvino.convert_model(program), Path(folder) / "model.xml", compress_to_fp16=False)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    loaded = openvino.Core().read_model(files["model.xml"], files["model.bin"])
    compiled = openvino.compile_model(loaded, "CPU", PRECISION)

    def run(part: Tensor) -> Tensor:
        return torch.from_numpy(compiled(part.numpy())[0].copy())

    return files | {"contract.json": contract.encode()}, run
