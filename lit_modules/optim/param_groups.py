"""Parameter groups of the optimizer, by name patterns and by layer."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from conf.errors import UserError, nearest

# Options of a group that are not options of the optimizer.
GROUP_OPTIONS = {"pattern", "optional", "end_fraction"}
NUMBERS = (int, float, torch.Tensor)


def build_optimizer(
    module: nn.Module, optimizer: Callable[..., Optimizer], groups: dict[str, dict[str, Any]], layer_decay: float
) -> Optimizer:
    """Builds the optimizer of the trainable parameters of a module.

    Args:
        module, groups: see `parameter_groups`.
        optimizer: called with the parameter groups.
        layer_decay: learning rate of a layer divided by that of the next layer towards the output; 1: equal rates.
            As in Clark et al., arXiv:2003.10555. See `split_by_layer`.

    Raises:
        UserError: there are no trainable parameters, or the optimizer rejects a value or an option.
    """
    built_groups = parameter_groups(module, groups)
    if layer_decay < 1:
        built_groups = split_by_layer(module, built_groups)
    built_groups = [group for group in built_groups if group["params"]]
    if not built_groups:
        raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
    try:
        built = optimizer(built_groups)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise UserError(f"lit_module.optimizer: {error}; correct it or lit_module.param_groups") from error
    for option in ("capturable", "differentiable"):  # need a training loop other than Lightning's
        if any(group.get(option) for group in built.param_groups):
            raise UserError(f"lit_module.optimizer.{option}: is not supported by the Trainer; leave it out")
    for name, options in groups.items():
        for option in options.keys() - GROUP_OPTIONS - built.defaults.keys():
            hint = nearest(option, built.defaults)
            raise UserError(f"lit_module.param_groups.{name}.{option}: the optimizer has no such option; {hint}")
    for group in built.param_groups:
        group["lr"] *= layer_decay ** group.pop("depth", 0)
    # Fused optimizers unscale inside step(), after clipping and gradient hooks; unscale before instead.
    built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    built.register_load_state_dict_post_hook(_check_loaded)
    built.register_load_state_dict_post_hook(_match_memory_format)
    return built


def _check_loaded(optimizer: Optimizer) -> None:
    """Raises ValueError for a loaded option or state that is missing, misshapen or of a wrong type.

    Only the next step would fail on it.
    """
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if name not in group or not _is_like(group[name], default):
                raise ValueError(f"a parameter group has no valid {name}")
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name != "step" and not isinstance(value, torch.Tensor | None):
                raise ValueError(f"{name} is no tensor")
            if isinstance(value, torch.Tensor) and not _broadcasts(value.shape, parameter.shape):
                raise ValueError(f"{name} is {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")


def _is_like(value: Any, default: Any) -> bool:
    """Whether a loaded option has the type of its default. Numbers are alike, and a switch may be unset."""
    if isinstance(default, tuple | list):
        return isinstance(value, tuple | list) and len(value) == len(default) and all(map(_is_like, value, default))
    if default is None or isinstance(default, bool):
        return value is None or isinstance(value, (*NUMBERS, str))
    return isinstance(value, NUMBERS if isinstance(default, NUMBERS) else type(default))


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether the shape of an optimizer state, such as Adafactor's means of rows, fits that of its parameter."""
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, target) for size, target in sizes)


def _match_memory_format(optimizer: Optimizer) -> None:
    """Converts loaded states to the memory format of their parameters, which FSDP checkpoints do not keep.

    Fused kernels assume that a state and its parameter share a memory format.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            has_parameter_shape = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if has_parameter_shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parameter_groups(module: nn.Module, groups: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainable parameters in groups with their options, in the format of torch.optim.

    Args:
        module: module that holds the parameters.
        groups: options by group name: `pattern` (one or a list), and options that override the optimizer's, such as
            `lr` or `weight_decay`. A parameter belongs to the first group that it matches, else to the group "rest".
            `optional: true` allows patterns without a match. `end_fraction`: see `LinearToZeroLR`.

    Raises:
        UserError: a pattern is missing or matches no parameter, or an option is out of range.
    """
    rest = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    built_groups = []
    for group_name, options in groups.items():
        key = f"lit_module.param_groups.{group_name}"
        if not isinstance(options, dict) or "pattern" not in options:
            raise UserError(f"{key}: has no pattern; add {key}.pattern=… with names such as '*.bias'")
        if not 0 < options.get("end_fraction", 1.0) <= 1:
            raise UserError(f"{key}.end_fraction: must be above 0 and at most 1, not {options['end_fraction']}")
        for option in ("lr", "weight_decay"):  # torch checks only the defaults, not those of groups
            value = options.get(option, 0)
            if not isinstance(value, int | float) or value < 0:
                raise UserError(f"{key}.{option}: must be a number of 0 or more, not {value}; correct it")
        patterns = options["pattern"] if isinstance(options["pattern"], list) else [options["pattern"]]
        optional = options.get("optional", False)
        names = {name for pattern in patterns for name in matching_names(module, pattern, f"{key}.pattern", optional)}
        group = {"params": [rest.pop(name) for name in list(rest) if name in names], "name": group_name}
        group |= {option: value for option, value in options.items() if option not in ("pattern", "optional")}
        built_groups.append(group)
    return [{"params": list(rest.values()), "name": "rest"}, *built_groups]


def split_by_layer(module: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Splits the groups by layer and adds `depth`: 0 for the last layer, 1 for the one before it, and so on.

    A layer is a child of the module that has parameters; children of a Sequential or ModuleList are layers themselves.
    """
    layers: dict[str, set[int]] = {}
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        is_list = isinstance(getattr(module, parts[0]), nn.Sequential | nn.ModuleList)
        layer = ".".join(parts[:2]) if is_list else parts[0]
        layers.setdefault(layer, set()).add(id(parameter))
    return [
        group | {"params": [parameter for parameter in group["params"] if id(parameter) in ids], "depth": depth}
        for depth, ids in enumerate(reversed(layers.values()))
        for group in groups
    ]


def matching_names(module: nn.Module, pattern: str, key: str, optional: bool = False) -> list[str]:
    """The names of parameters that match a pattern, in which `*` matches any text.

    Args:
        module: module that holds the parameters.
        pattern: see above.
        key: config key of the pattern, for the error message.
        optional: whether the pattern may match nothing.

    Raises:
        UserError: there is no match and the pattern is not optional.
    """
    names = [name for name, _ in module.named_parameters()]
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches and not optional:
        raise UserError(f"{key}: '{pattern}' matches no parameter; {nearest(pattern, names)}")
    return matches
