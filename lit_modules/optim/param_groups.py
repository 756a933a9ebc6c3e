"""Which parameters an optimizer gets, in which groups."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from conf.errors import UserError, nearest

# Of a group, beside those of the optimizer.
OWN_OPTIONS = {"pattern", "optional", "end_fraction"}


def build_optimizer(
    module: nn.Module, optimizer: Callable[..., Optimizer], groups: dict[str, dict[str, Any]], layer_decay: float
) -> Optimizer:
    """The optimizer of a module's trainable parameters, in groups as `parameter_groups` makes them.

    Args:
        module, groups: see there.
        optimizer: called with the groups.
        layer_decay: the rate of a layer as a share of that of the next one, counted from the output; 1: equal rates.
            Clark et al., arXiv:2003.10555, for one. See `by_layer`.

    Raises:
        UserError: there are none, or the optimizer refuses a value or has no such option.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"lit_module.layer_decay: must be above 0 and at most 1, not {layer_decay}; try 0.8")
    chosen = parameter_groups(module, groups)
    filled = [group for group in (by_layer(module, chosen) if layer_decay < 1 else chosen) if group["params"]]
    if not filled:
        raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
    try:
        built = optimizer(filled)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UserError(f"lit_module.optimizer: {error}; correct it or lit_module.param_groups") from error
    for option in ("capturable", "differentiable"):  # of torch's, for loops that record a step or differentiate it
        if any(group.get(option) for group in built.param_groups):
            raise UserError(f"lit_module.optimizer.{option}: is for other loops than the Trainer's; leave it out")
    for name, options in groups.items():
        for option in options.keys() - OWN_OPTIONS - built.defaults.keys():
            fix = nearest(option, built.defaults)
            raise UserError(f"lit_module.param_groups.{name}.{option}: the optimizer has no such option; {fix}")
    for group in built.param_groups:
        group["lr"] *= layer_decay ** group.pop("depth", 0)
    # A fused one offers to undo fp16's scaling by itself, too late for clipping and for whoever looks at gradients.
    built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    built.register_load_state_dict_post_hook(_lay_out)
    return built


def _lay_out(optimizer: Optimizer) -> None:
    """Gives states that were loaded the memory format of their parameters, which checkpoints of FSDP do not have: a
    fused optimizer goes through the memory of both as if it were one."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            of_parameter = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if of_parameter and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parameter_groups(module: nn.Module, groups: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainable parameters in groups with options of their own, in the form that torch's optimizers take.

    Args:
        module: whose parameters.
        groups: by name, each with `pattern` (one or a list) and the options that differ, such as `lr` or
            `weight_decay`. A parameter goes to the first group that it fits; the rest keep the optimizer's options.
            `optional: true` allows a pattern that fits no parameter. `end_fraction`: see `LinearToZeroLR`.

    Raises:
        UserError: a pattern is missing or fits no parameter.
    """
    rest = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = []
    for group, options in groups.items():
        key = f"lit_module.param_groups.{group}"
        if not isinstance(options, dict) or "pattern" not in options:
            raise UserError(f"{key}: has no pattern; add {key}.pattern=… with names such as '*.bias'")
        if not 0 < options.get("end_fraction", 1.0) <= 1:
            raise UserError(f"{key}.end_fraction: must be above 0 and at most 1, not {options['end_fraction']}")
        for option in ("lr", "weight_decay"):  # of its groups the optimizer does not check them
            value = options.get(option, 0)
            if not isinstance(value, int | float) or value < 0:
                raise UserError(f"{key}.{option}: must be a number of 0 or more, not {value}; correct it")
        patterns = options["pattern"] if isinstance(options["pattern"], list) else [options["pattern"]]
        optional = options.get("optional", False)
        names = {name for pattern in patterns for name in matching(module, pattern, f"{key}.pattern", optional)}
        chosen = [rest.pop(name) for name in list(rest) if name in names]
        found.append(
            {"params": chosen, "name": group} | {k: v for k, v in options.items() if k not in ("pattern", "optional")}
        )
    return [{"params": list(rest.values()), "name": "rest"}, *found]


def by_layer(module: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, each split by layers, with `depth`: 0 for the last layer, 1 for the one before it, …

    A layer is a child of the network that has parameters; where that is a Sequential or a list, a child of that.
    """
    layers: dict[str, set[int]] = {}
    for name, parameter in module.named_parameters():
        child = name.split(".")[0]
        deep = isinstance(getattr(module, child), nn.Sequential | nn.ModuleList)
        layers.setdefault(".".join(name.split(".")[: 2 if deep else 1]), set()).add(id(parameter))
    return [
        group | {"params": [parameter for parameter in group["params"] if id(parameter) in ids], "depth": depth}
        for depth, ids in enumerate(reversed(layers.values()))
        for group in groups
    ]


def matching(module: nn.Module, pattern: str, key: str, optional: bool = False) -> list[str]:
    """The names of a module's parameters that fit a pattern, in which `*` stands for any text.

    Raises:
        UserError: there are none and it is not `optional`; `key` gave the pattern.
    """
    names = [name for name, _ in module.named_parameters()]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found and not optional:
        raise UserError(f"{key}: '{pattern}' fits no parameter; {nearest(pattern, names)}")
    return found
