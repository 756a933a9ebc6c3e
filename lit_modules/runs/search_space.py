"""Search space of a sweep: Optuna distributions, overrides and experiment files."""

import itertools
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from conf.errors import UserError
from conf.saved_config import CONF


def distributions_of(space: DictConfig) -> dict[str, BaseDistribution]:
    """Converts `key: [value, …]` and `key: {low, high, log, step}` into Optuna distributions.

    Raises:
        UserError: an entry has another form.
    """
    distributions: dict[str, BaseDistribution] = {}
    plain: Any = OmegaConf.to_container(space)
    for key, values in plain.items():
        try:
            if isinstance(values, list):
                distributions[key] = CategoricalDistribution([str(v) if isinstance(v, list) else v for v in values])
            else:
                integer = isinstance(values["low"], int) and isinstance(values["high"], int)
                distributions[key] = (IntDistribution if integer else FloatDistribution)(**values)
        except (TypeError, KeyError, ValueError) as error:
            fix = "give [value, …] or {low: …, high: …}"
            raise UserError(f"space.{key}: {values} is not a valid choice ({error}); {fix}") from error
    return distributions


def extremes(distribution: BaseDistribution) -> list[Any]:
    """All categorical values, or the bounds of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def grid(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """All combinations of a categorical space.

    Raises:
        UserError: an entry is a range.
    """
    for key, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution):
            raise UserError(f"space.{key}: a grid needs values; give [value, …]")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*map(extremes, space.values()))]


def check_params(params: dict[str, Any], space: dict[str, BaseDistribution]) -> None:
    """Check the parameters of a trial that a study's storage holds: they become a command line.

    Raises:
        UserError: one of them is outside the search space.
    """
    for key, value in params.items():
        distribution = space.get(key)
        if isinstance(distribution, IntDistribution | FloatDistribution):
            lies_within = isinstance(value, int | float) and distribution.low <= value <= distribution.high
        else:
            lies_within = isinstance(distribution, CategoricalDistribution) and value in distribution.choices
        if not lies_within:
            raise UserError(f"storage: a trial has {key}={value}, which is not in its space; restore a backup")


def overrides(params: dict[str, Any]) -> list[str]:
    """Formats parameters as command-line overrides."""
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def experiment(texts: list[str]) -> str:
    """Converts command-line overrides into the YAML of an experiment file."""
    defaults: list[Any] = []
    values = OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(texts):
        key, value = override.key_or_group, None if override.is_delete() else override.value()
        if not (CONF / key).is_dir():
            OmegaConf.update(values, key, value, force_add=True)
        elif override.is_add():
            defaults += [f"/{key}/{name}" for name in (value if isinstance(value, list) else [value])]
        else:
            defaults.append({f"override /{key}": value})
    return OmegaConf.to_yaml(OmegaConf.merge({"defaults": defaults} if defaults else {}, values))
