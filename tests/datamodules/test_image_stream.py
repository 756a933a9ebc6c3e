"""Predictions take their values from a saved config, which may have been changed by hand."""

from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from conf.errors import UserError
from datamodules.image_datamodule import ImageDataModule
from datamodules.image_stream import PARAMETERS, image_spec

SAVED = {"resize": "pad", "jpeg_draft": True, "interpolation": None, "batch_size": 64, "num_workers": None}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("batch_size", "x", "'x' does not fit; give int"),
        ("batch_size", None, "None does not fit; give int"),
        ("batch_size", 0, "must be at least 1 and at most 1000000, not 0; correct it"),
        ("interpolation", "foo", "'foo' does not fit; give bilinear or bicubic or null"),
        ("resize", "foo", "'foo' does not fit; give pad or crop or stretch"),
        ("num_workers", "x", "'x' does not fit; give int or null"),
        ("num_workers", -5, "must be at least 0 and at most 1024, not -5; correct it"),
        ("jpeg_draft", [1], "[1] does not fit; give bool"),
    ],
)
def test_wrong_value_of_a_saved_config_is_one_line(key: str, value: Any, problem: str) -> None:
    image_spec(OmegaConf.create(SAVED), (3, 8, 8))
    with pytest.raises(UserError) as error:
        image_spec(OmegaConf.create(SAVED | {key: value}), (3, 8, 8))
    assert str(error.value) == f"datamodule.{key}: {problem}"


def test_types_are_those_of_the_data_module() -> None:
    hints = get_type_hints(ImageDataModule, include_extras=True)
    assert {key: hints[key] for key in PARAMETERS} == PARAMETERS
