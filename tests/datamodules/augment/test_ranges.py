"""Parameters of augmentations and mixings outside of their range are an error of the config."""

import math
from functools import cache
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from conf import validation
from conf.errors import UserError
from tests.conftest import configure

CHOICES = ("affine", "color", "crop", "cutout", "flip", "rand")


@cache
def base(mix: str) -> DictConfig:
    return configure(f"datamodule/augment=[{','.join(CHOICES)}]", f"datamodule/mix={mix}")


def check(mix: str, key: str, value: Any) -> None:
    cfg = base(mix).copy()
    OmegaConf.update(cfg, f"datamodule.{key}", value)
    validation.check(cfg)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("augment.crop.padding", 0, "at least 1, not 0"),
        ("augment.flip.p", 1.5, "at least 0 and at most 1, not 1.5"),
        ("augment.flip.p", -0.1, "at least 0 and at most 1, not -0.1"),
        ("augment.cutout.size", 0, "at least 1, not 0"),
        ("augment.color.brightness", 1.1, "at least 0 and at most 1, not 1.1"),
        ("augment.color.contrast", -1, "at least 0 and at most 1, not -1"),
        ("augment.color.saturation", 2, "at least 0 and at most 1, not 2"),
        ("augment.color.hue", 0.6, "at least 0 and at most 0.5, not 0.6"),
        ("augment.affine.scale", 1, "at least 0 and below 1, not 1"),
        ("augment.rand.num_ops", 0, "at least 1, not 0"),
        ("augment.rand.magnitude", -1, "at least 0 and at most 30, not -1"),
        ("augment.rand.magnitude", 31, "at least 0 and at most 30, not 31"),
    ],
)
def test_value_out_of_range_is_rejected(key: str, value: float, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check("mixup", key, value)
    assert str(caught.value) == f"datamodule.{key}: must be {problem}; correct it"


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [0, -1, math.inf, math.nan])
def test_alpha_out_of_range_is_rejected(mix: str, alpha: float) -> None:
    with pytest.raises(UserError, match=rf"^datamodule.mix.alpha: must be (above 0|a finite number), not {alpha}; "):
        check(mix, "mix.alpha", alpha)


@pytest.mark.parametrize(
    "key", ["augment.flip.p", "augment.color.hue", "augment.rand.magnitude", "augment.affine.scale"]
)
def test_lower_end_of_the_range_is_accepted(key: str) -> None:
    check("mixup", key, 0)
