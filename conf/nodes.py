"""Checks of `_target_` nodes: allowed packages, parameter names, types and ranges. Does not import torch itself."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal

from conf import project
from conf.annotations import check_value
from conf.bounds import bounded
from conf.errors import UserError, first_line, nearest
from conf.renamed import TARGETS
from conf.unknown_keys import SYNONYMS, renamed_key

# A `_target_` runs code, so only these packages are allowed, by the target's name and by where it is defined.
PACKAGES = (
    "datamodules.",
    "lit_modules.",
    "optuna.pruners.",
    "optuna.samplers.",
    "pytorch_lightning.",
    "torch.nn.",
    "torch.optim.",
    "torchmetrics.",
    "torchvision.models.",
    "torchvision.transforms.",
)
# What each place takes: a class of this kind, or a function whose return annotation is one. Other classes and functions
# of an allowed package may write files.
KINDS = {
    "callbacks.*": "pytorch_lightning.callbacks.callback.Callback",
    "datamodule": "pytorch_lightning.core.datamodule.LightningDataModule",
    "lit_module": "pytorch_lightning.core.module.LightningModule",
    "lit_module.loss": "torch.nn.modules.module.Module",
    "lit_module.metrics.*": "torchmetrics.metric.Metric",
    "lit_module.net": "torch.nn.modules.module.Module",
    "lit_module.optimizer": "torch.optim.optimizer.Optimizer",
    "lit_module.scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "logger.*": "pytorch_lightning.loggers.logger.Logger",
    "pruner": "optuna.pruners._base.BasePruner",
    "sampler": "optuna.samplers._base.BaseSampler",
    "trainer": "pytorch_lightning.trainer.trainer.Trainer",
    "trainer.profiler": "pytorch_lightning.profilers.profiler.Profiler",
    "trainer.strategy": "pytorch_lightning.strategies.strategy.Strategy",
}
# What other places, such as a parameter of a callback, take beside these kinds.
OTHER_KINDS = (
    "lightning_fabric.plugins.environments.cluster_environment.ClusterEnvironment",
    "lightning_fabric.plugins.io.checkpoint_io.CheckpointIO",
    "lightning_fabric.plugins.precision.precision.Precision",
    "torchmetrics.metric.Metric",
)
# Packages whose classes have no common base class, or whose functions return nothing; all are harmless.
HARMLESS = ("datamodules.augment.", "lit_modules.networks.initialization.", "torch.nn.init.", "torchvision.transforms.")
# Why no place takes the classes of these modules.
REFUSED = {
    "optuna.samplers._cmaes.": "unpickles what a study holds",
    "pytorch_lightning.demos.": "downloads data",
    "torch.optim.lbfgs.": "computes several losses a step, and scores count each sample once",
    "torch.optim.sparse_adam.": "needs sparse gradients, which no layer here has",
}
# Nodes that are called later: the number of positional arguments, and the names of the others.
CALLS: dict[str, tuple[int, tuple[str, ...]]] = {
    "lit_module.init": (1, ()),
    "lit_module.loss": (0, ()),
    "lit_module.metrics.*": (0, ()),
    "lit_module.net": (0, ("input_shape", "num_classes")),
    "lit_module.optimizer": (1, ()),
    "lit_module.scheduler": (1, ()),
    "sampler": (0, ("seed",)),
}
# Further arguments, which a node may lack.
GIVEN = {
    "lit_module": ("input_shape", "class_names", "class_counts", "mean", "std"),
    "lit_module.metrics.*": ("num_classes",),
    "lit_module.loss": ("class_names", "input_shape"),
    "lit_module.scheduler": ("total_steps",),
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
MAX_NAMES = 20  # in a hint
# The packages of these places: elsewhere, some networks and metrics download weights.
ONLY_FROM = {
    "lit_module.loss": ("torch.nn.modules.loss.", "lit_modules."),
    "lit_module.metrics.*": ("torchmetrics.classification.", "torchmetrics.nominal.", "lit_modules."),
}
DIRECTIVES = {"_target_": str, "_partial_": bool, "_convert_": Literal["all"], "_recursive_": Literal[True]}


def check_nodes(cfg: Any) -> None:
    """Check every dict with a `_target_` in a plain config.

    Raises:
        UserError: a target is not allowed or does not exist, a key is not a parameter, or a value has the wrong type or
            is out of range.
    """
    for path, node in _nodes(cfg, ""):
        _check_node(path, node)


def parameter_names(path: str, target: str) -> set[str] | None:
    """The keys that the node of a target may hold; None: any key.

    Raises:
        UserError: the target is not allowed or does not exist.
    """
    parameters = _parameters(_constructor(f"{path}._target_", target))
    takes_any_key = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any_key else {*parameters, *DIRECTIVES}


def direction(path: str, target: str) -> str | None:
    """Whether the best value of a metric is its `max` or its `min`imum; None if its class leaves it open.

    Raises:
        UserError: the target is not allowed or does not exist.
    """
    higher_is_better = getattr(_constructor(f"{path}._target_", target), "higher_is_better", None)
    modes: dict[Any, str] = {True: "max", False: "min"}
    return modes.get(higher_is_better)


def _nodes(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict with a `_target_`, with its dotted path."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, child in value.items():
            yield from _nodes(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _nodes(child, f"{path}.{position}")


def _check_node(path: str, node: dict[str, Any]) -> None:
    target = str(node["_target_"])
    constructor = _constructor(f"{path}._target_", target)
    _check_kind(path, target, constructor)
    parameters = _parameters(constructor)
    takes_any_key = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key in DIRECTIVES:
            annotation = DIRECTIVES[key]
        elif key in parameters:
            annotation = bounded(constructor, key, parameters[key].annotation)
        elif takes_any_key and not get_close_matches(str(key), parameters):
            continue  # the constructor passes it on
        else:
            new_key = renamed_key(f"{path}.{key}", parameters)
            if new_key:
                raise UserError(f"{path}.{key}: is called {new_key} now; rename it")
            hint = nearest(SYNONYMS.get(key, str(key)), parameters)
            raise UserError(f"{path}.{key}: {constructor.__name__} has no such parameter; {hint}")
        check_value(f"{path}.{key}", value, annotation)
    _check_call(path, node, parameters)


def _check_call(path: str, node: dict[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raises UserError if a node is built too early or too late, or its call lacks an argument or has one too many."""
    name = str(node["_target_"]).rpartition(".")[2]
    place = _place(path)
    is_partial = bool(node.get("_partial_"))
    if place in CALLS and not is_partial:
        raise UserError(f"{path}: {name} is called by Litmus later, not at once; add _partial_: true")
    if place not in CALLS and is_partial:
        if place in KINDS:
            raise UserError(f"{path}._partial_: {name} is built at once; leave it out")
        return  # who calls it is not known
    positional, names = CALLS.get(place, (0, ()))
    kinds = [parameter.kind for parameter in parameters.values()]
    for key in names:
        # Functions of other packages pass further arguments on to a constructor that refuses them.
        takes_any_key = inspect.Parameter.VAR_KEYWORD in kinds and node["_target_"].startswith("lit_modules.")
        if key not in parameters and not takes_any_key:
            problem = f"{name} has no parameter {key}, and is called with {' and '.join(names)}"
            raise UserError(f"{path}: {problem}; choose one that has them, as those of lit_modules/networks have")
    for key, parameter in list(parameters.items())[positional:]:
        is_required = parameter.default is parameter.empty and parameter.kind in NAMED
        if is_required and key not in (*node, *names, *GIVEN.get(place, ())):
            raise UserError(f"{path}: {name} needs {key}; add {path}.{key}=…")


def _constructor(key: str, target: str) -> Any:
    """The class or function that a `_target_` names."""
    own = _own_packages()
    if not target.startswith(PACKAGES + own) or "._" in target:  # names that begin with _ are private
        raise UserError(f"{key}: {target} is not from an allowed package; {_allowed_instead(target)}")
    constructor = _resolve_own(key, target) if target.startswith(own) else _resolve(target)
    if constructor is None and target in TARGETS:
        raise UserError(f"{key}: {target} is called {TARGETS[target]} now; rename it")
    if constructor is None:
        module, _, name = target.rpartition(".")
        raise UserError(f"{key}: there is no {name} in {module}; {_hint(module, name)}")
    home = f"{getattr(constructor, '__module__', '')}."
    # A class or a function of a module, never a method: load_from_checkpoint, for example, unpickles its argument.
    # Nor a name that another package's module imports: what a saved config may choose is told by its name.
    is_import = home.partition(".")[0] != target.partition(".")[0]
    if is_import or not home.startswith(PACKAGES + own) or "." in getattr(constructor, "__qualname__", "."):
        raise UserError(f"{key}: {target} is not defined by an allowed package of that name; name a class of one")
    return constructor


def _own_packages() -> tuple[str, ...]:
    return tuple(f"{name}." for name in project.packages())


def _allowed_instead(target: str) -> str:
    """What to write in place of a target that is not allowed, or how to allow it."""
    package = target.partition(".")[0]
    known = {allowed.partition(".")[0] for allowed in PACKAGES}
    if "." in target and package.isidentifier() and package not in known and not project.is_reserved(package):
        return project.how_to_allow(package)
    return f"use one of {', '.join(allowed.rstrip('.') for allowed in PACKAGES)}"


def _resolve_own(key: str, target: str) -> Any:
    """`_resolve` for a package of the user's own, whose modules may be missing or fail."""
    try:
        return _resolve(target)
    except Exception as error:  # of code that is not ours
        package = target.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            fix = f"install it, or put it beside the {project.FILE} that lists it"
            raise UserError(f"{key}: there is no package {package} here; {fix}") from error
        place = project.place_of(error)
        raise UserError(f"{key}: {target} cannot be imported: {first_line(error)}{place}; correct it") from error


def _check_kind(path: str, target: str, constructor: Any) -> None:
    """Raises UserError if a place takes no such class."""
    home = f"{constructor.__module__}."
    place = _place(path)
    wanted = (KINDS[place],) if place in KINDS else (*KINDS.values(), *OTHER_KINDS)
    for module, why in REFUSED.items():
        if home.startswith(module):
            raise UserError(f"{path}._target_: {target} {why}; choose another")
    own = _own_packages()
    packages = ONLY_FROM.get(place)
    if packages and not home.startswith(packages + own):
        choices = ", ".join(package.rstrip(".") for package in packages)
        raise UserError(f"{path}._target_: {target} is not from {choices}; choose one of these, or your own")
    built = constructor
    if not isinstance(constructor, type):
        built = _signature(constructor).return_annotation
    bases = [f"{base.__module__}.{base.__qualname__}" for base in getattr(built, "__mro__", ())]
    is_own_class = isinstance(constructor, type) and home.startswith(own)
    harmless = place not in KINDS and (home.startswith(HARMLESS) or is_own_class)
    if not (harmless or set(bases) & set(wanted)):
        kind = f"a {wanted[0].rpartition('.')[2]}" if len(wanted) == 1 else "anything that Litmus builds"
        fix = "name a class of that kind, or a function with such a return annotation"
        raise UserError(f"{path}._target_: {target} is not {kind}; {fix}")


def _place(path: str) -> str:
    """The key of KINDS that a dotted path falls under, or another text."""
    place = f"{path.rpartition('.')[0]}.*"
    return place if place in KINDS else path


def _resolve(target: str) -> Any:
    """The object of a dotted name; None if there is none.

    Raises:
        ImportError: a module of that name exists, but its own imports fail.
    """
    names = target.split(".")
    found: Any = importlib.import_module(names[0])
    for count, name in enumerate(names[1:], 2):
        module = ".".join(names[:count])
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
        found = getattr(found, name, None)
    return found


def _hint(module: str, name: str) -> str:
    """The public classes and functions that a module or its submodules define."""
    names = []
    for word, value in getattr(_resolve(module), "__dict__", {}).items():
        defined_in = getattr(value, "__module__", None) or ""
        if word[0].isalpha() and f"{defined_in}.".startswith(f"{module}."):
            names.append(word)
    hint = nearest(name, names)
    return hint if hint.startswith("did you mean") or 0 < len(names) <= MAX_NAMES else "correct the name"


def _parameters(constructor: Any) -> Mapping[str, inspect.Parameter]:
    return _signature(constructor).parameters


def _signature(constructor: Any) -> inspect.Signature:
    try:
        return inspect.signature(constructor, eval_str=True)
    except NameError:  # annotations that exist for type checkers only: their values are not checked
        return inspect.signature(constructor)
