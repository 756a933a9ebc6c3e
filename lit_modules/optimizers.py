"""Which parameters an optimizer gets, in which groups."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from conf.errors import UserError, nearest


def freeze_(module: nn.Module, patterns: list[str]) -> None:
    """Sets requires_grad to False for every parameter whose name fits a pattern (`*` stands for any text).

    Raises:
        UserError: a pattern fits no parameter.
    """
    for pattern in patterns:
        for name in _matching(module, pattern, "lit_module.freeze"):
            module.get_parameter(name).requires_grad = False


def eval_frozen_(module: nn.Module) -> None:
    """Puts the layers whose parameters are all frozen in eval mode: a frozen BatchNorm keeps its statistics, too."""
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            layer.eval()


def build_optimizer(
    module: nn.Module, optimizer: Callable[..., Optimizer], groups: dict[str, dict[str, Any]]
) -> Optimizer:
    """The optimizer of a module's trainable parameters, in groups as `parameter_groups` makes them.

    Raises:
        UserError: there are none, or the optimizer refuses a value or has no such option.
    """
    filled = [group for group in parameter_groups(module, groups) if group["params"]]
    if not filled:
        raise UserError("lit_module.freeze: leaves nothing to train; freeze less")
    try:
        built = optimizer(filled)
    except (ValueError, TypeError) as error:
        raise UserError(f"lit_module.optimizer: {error}; correct it or lit_module.param_groups") from error
    for group, options in groups.items():
        for option in options.keys() - {"pattern"} - built.defaults.keys():
            fix = nearest(option, built.defaults)
            raise UserError(f"lit_module.param_groups.{group}.{option}: the optimizer has no such option; {fix}")
    return built


def parameter_groups(module: nn.Module, groups: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Trainable parameters in groups with options of their own, in the form that torch's optimizers take.

    Args:
        module: whose parameters.
        groups: by name, each with `pattern` (one or a list) and the options that differ, such as `lr` or
            `weight_decay`. A parameter goes to the first group that it fits; the rest keep the optimizer's options.

    Raises:
        UserError: a pattern is missing or fits no parameter.
    """
    rest = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = []
    for group, options in groups.items():
        key = f"lit_module.param_groups.{group}"
        if "pattern" not in options:
            raise UserError(f"{key}: has no pattern; add {key}.pattern=… with names such as '*.bias'")
        patterns = options["pattern"] if isinstance(options["pattern"], list) else [options["pattern"]]
        names = {name for pattern in patterns for name in _matching(module, pattern, f"{key}.pattern")}
        chosen = [rest.pop(name) for name in list(rest) if name in names]
        found.append({"params": chosen, "name": group} | {k: v for k, v in options.items() if k != "pattern"})
    return [{"params": list(rest.values()), "name": "rest"}, *found]


def _matching(module: nn.Module, pattern: str, key: str) -> list[str]:
    names = [name for name, _ in module.named_parameters()]
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        raise UserError(f"{key}: '{pattern}' fits no parameter; {nearest(pattern, names)}")
    return matching
