"""The space of a sweep: what Optuna draws from, and how what it drew is written as overrides or as an experiment."""

import itertools
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from conf.errors import UserError
from conf.saved_config import CONF


def choices(space: DictConfig) -> dict[str, BaseDistribution]:
    """What Optuna draws from, of `key: [value, …]` and `key: {low, high, log, step}`.

    Raises:
        UserError: a key has neither.
    """
    found: dict[str, BaseDistribution] = {}
    plain: Any = OmegaConf.to_container(space)
    for key, values in plain.items():
        try:
            if isinstance(values, list):
                found[key] = CategoricalDistribution([str(v) if isinstance(v, list) else v for v in values])
            else:
                whole = isinstance(values["low"], int) and isinstance(values["high"], int)
                found[key] = (IntDistribution if whole else FloatDistribution)(**values)
        except (TypeError, KeyError, ValueError) as error:
            fix = "give [value, …] or {low: …, high: …}"
            raise UserError(f"space.{key}: {values} is no choice ({error}); {fix}") from error
    return found


def ends(choice: BaseDistribution) -> list[Any]:
    """The values to choose from, or the lowest and the highest."""
    if isinstance(choice, CategoricalDistribution):
        return list(choice.choices)
    assert isinstance(choice, IntDistribution | FloatDistribution)
    return [choice.low, choice.high]


def grid(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """All combinations.

    Raises:
        UserError: a key has a range instead of values.
    """
    for key, each in space.items():
        if not isinstance(each, CategoricalDistribution):
            raise UserError(f"space.{key}: a grid needs values; give [value, …]")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*map(ends, space.values()))]


def overrides(params: dict[str, Any]) -> list[str]:
    """Values by key as a command line has them."""
    return [f"{key}={'null' if value is None else value}" for key, value in params.items()]


def experiment(texts: list[str]) -> str:
    """An experiment file that says what a command line does."""
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
