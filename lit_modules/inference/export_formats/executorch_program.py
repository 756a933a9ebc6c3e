"""`executorch`: a program of ExecuTorch for processors of phones and computers (XNNPACK)."""

import torch
from torch import Tensor, nn

from lit_modules.inference.export_formats.torch_program import Exported, dynamic_shapes


def write_executorch(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.export(model, (inputs,), dynamic_shapes=dynamic_shapes(model))
    content = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    method = Runtime.get().load_program(content).load_method("forward")

    def run(part: Tensor) -> Tensor:
        outputs: Tensor = method.execute([part.contiguous()])[0]
        return outputs.clone()  # the next call writes into the same memory

    return {"model.pte": content, "contract.json": contract.encode()}, run
