"""DDP and FSDP: Lightning's strategies, with parameters that YAML can express."""

from datetime import timedelta
from itertools import chain
from typing import Annotated, Any

import torch
from annotated_types import Interval
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import distribute_tensor

from conf.errors import UserError

Minutes = Annotated[float, Interval(gt=0, le=1_000_000)]


class DDP(DDPStrategy):
    """Distributed data parallel: the whole network in each process, averaged gradients.

    Args:
        timeout_minutes: a process that waits longer for the others ends with an error.
    """

    def __init__(self, timeout_minutes: Minutes) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))


class FSDP(ModelParallelStrategy):
    """Fully sharded data parallel: each process holds a shard of weights, gradients and optimizer states.

    A layer's weights are gathered while it is used. A checkpoint is one file with full tensors. Uses FSDP2, which works
    on CPUs too.

    Args:
        timeout_minutes: see `DDP`.
    """

    def __init__(self, timeout_minutes: Minutes) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes)
        )

    def setup_environment(self) -> None:
        module = self.lightning_module
        assert module is not None
        for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) or getattr(callback, "needs_whole_network", False):
                name = getattr(callback, "chosen_by", f"callbacks.{type(callback).__name__}")
                raise UserError(
                    f"devices=fsdp: {name} needs the whole network in each process; leave it out, or choose devices=ddp"
                )
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        # Called before the optimizer is built. As a method of the class, it would make averaging callbacks warn.
        module.configure_model = lambda: shard(module.net, self.device_mesh["data_parallel"])  # type: ignore

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint's weights and optimizer states, each process its shards.

        Lightning's own method numbers an optimizer's parameters in the network's order. With parameter groups or frozen
        parameters, that assigns states to the wrong parameters.
        """
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        module = self.lightning_module
        assert module is not None
        checkpoint = torch.load(self.broadcast(checkpoint_path), mmap=True, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True, strict=module.strict_loading)
        set_model_state_dict(module, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            numbers = chain.from_iterable(group["params"] for group in saved["param_groups"])
            for parameter, number in zip(parameters, numbers, strict=False):  # load_state_dict checks their count
                state = saved["state"].get(number, {})
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        mesh, placements = parameter.device_mesh, parameter.placements
                        state[name] = distribute_tensor(value, mesh, placements, src_data_rank=None)
            optimizer.load_state_dict(saved)
        return checkpoint


def shard(net: nn.Module, mesh: Any) -> None:
    """Shard a network over the processes of a mesh, in place; a no-op if it is sharded already.

    Each child, and each layer of a Sequential or ModuleList, is a unit: one unit at a time is gathered. The parameters
    are replaced by DTensors of the same names and shapes.
    """
    if not isinstance(net, FSDPModule):
        net.to(memory_format=torch.contiguous_format)  # FSDP shards no other layout
        for child in net.children():
            for layer in child if isinstance(child, nn.Sequential | nn.ModuleList) else [child]:
                if next(layer.parameters(), None) is not None:
                    fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
