"""`onnx`, and its quantization to 8-bit integers by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.inference.export_formats.torch_program import Exported, dynamic_shapes

MAX_ONNX_BYTES = 2**31 - 2**20  # of weights: an ONNX file is one protobuf message, which 2 GiB limit
QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "GlobalAveragePool"]
FILE = "model.onnx"


def write_onnx(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    if sum(value.nbytes for value in model.state_dict().values()) > MAX_ONNX_BYTES:
        raise UserError("format: an onnx file holds at most 2 GB, which the weights exceed; choose torch_export")
    program = torch.onnx.export(
        model,
        (inputs,),
        dynamo=True,
        dynamic_shapes=dynamic_shapes(model),
        input_names=["inputs"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["contract"] = contract
    content = program.model_proto.SerializeToString()
    return {FILE: content}, session(content)


def session(content: bytes) -> Callable[[Tensor], Tensor]:
    """The function of an ONNX file."""
    import onnxruntime

    loaded = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> Tensor:
        return torch.from_numpy(loaded.run(None, {"inputs": part.numpy()})[0])

    return run


def with_contract(content: bytes, contract: str) -> bytes:
    """An ONNX file with a contract in its metadata."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, {"contract": contract})
    serialized: bytes = model.SerializeToString()
    return serialized


def quantize(content: bytes, calibration: Tensor) -> bytes:
    """An ONNX file with weights and activations of 8 bits: static, per channel, as QuantizeLinear and DequantizeLinear.

    Args:
        calibration: inputs `[N, …]` of the file, of the training split, whose ranges determine the scales.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        parts = iter(calibration.split(1))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"inputs": part.numpy()}

    with TemporaryDirectory() as folder:
        path, quantized = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        path.write_bytes(content)
        quant_pre_process(path, path, skip_symbolic_shape=True)
        quantize_static(
            path,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # weights of 7 bits: sums of 8-bit products saturate on processors without VNNI
            op_types_to_quantize=QUANTIZED,
        )
        return quantized.read_bytes()
