"""How several processes train one network: Lightning's strategies, with settings that a YAML can give."""

from datetime import timedelta
from itertools import chain
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import distribute_tensor

from conf.errors import UserError


class DDP(DDPStrategy):
    """The whole network in each process; gradients are averaged.

    Args:
        timeout_minutes: how long a process waits for the others before it ends with an error.
    """

    def __init__(self, timeout_minutes: float) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))


class FSDP(ModelParallelStrategy):
    """A part of each weight, gradient and optimizer state in each process; a layer's weights are brought together while
    it is used. Checkpoints are whole, in one file. FSDP2 of torch, for the first one wants an accelerator.

    Args:
        timeout_minutes: see `DDP`.
    """

    def __init__(self, timeout_minutes: float) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes)
        )

    def setup_environment(self) -> None:
        module = self.lightning_module
        assert module is not None
        for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) or getattr(callback, "needs_whole_network", False):
                fix = "leave it out of callbacks, or choose devices=ddp"
                raise UserError(f"devices=fsdp: {type(callback).__name__} needs the whole network in a process; {fix}")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        # Called before the optimizer is built. Not a method of the class, of which averaging callbacks warn.
        module.configure_model = lambda: shard(module.net, self.device_mesh["data_parallel"])  # type: ignore

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Puts a checkpoint's weights and the optimizers' states into place, each process its part of them. Lightning's
        own numbers an optimizer's parameters as the network does, which gives one in groups, or without what is frozen,
        the states of others."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        module = self.lightning_module
        assert module is not None
        found = torch.load(self.broadcast(checkpoint_path), mmap=True, map_location="cpu", weights_only=True)
        whole = StateDictOptions(full_state_dict=True, strict=module.strict_loading)
        set_model_state_dict(module, found["state_dict"], options=whole)
        for optimizer, saved in zip(self.optimizers, found["optimizer_states"], strict=False):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            numbers = chain.from_iterable(group["params"] for group in saved["param_groups"])
            for parameter, number in zip(parameters, numbers, strict=False):  # a wrong count is refused below
                state, place = saved["state"].get(number, {}), (parameter.device_mesh, parameter.placements)
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[name] = distribute_tensor(value, *place, src_data_rank=None)
            optimizer.load_state_dict(saved)
        return found


def shard(net: nn.Module, mesh: Any) -> None:
    """Shares out a network among the processes of a mesh, child by child, so that one at a time is whole. Its
    parameters become others, of the same names and shapes. Does nothing the second time."""
    if not isinstance(net, FSDPModule):
        net.to(memory_format=torch.contiguous_format)  # parts of other layouts are not made
        for child in net.children():
            for layer in child if isinstance(child, nn.Sequential | nn.ModuleList) else [child]:
                if any(True for _ in layer.parameters()):
                    fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
