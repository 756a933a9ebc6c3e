"""`executorch`: a program of ExecuTorch for processors of phones and computers (XNNPACK)."""

import torch
from torch import Tensor, nn

from lit_modules.inference.export_formats.torch_program import Exported


def write_executorch(model: nn.Module, inputs: Tensor, contract: str) -> Exported:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.export(model, (inputs[:1],))
    content = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    method = Runtime.get().load_program(content).load_method("forward")

    def run(part: Tensor) -> Tensor:
        # A copy, because the next call writes into the same memory.
        return torch.cat([method.execute([sample])[0].clone() for sample in part.split(1)])

    return {"model.pte": content, "contract.json": contract.encode()}, run
