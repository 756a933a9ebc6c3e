"""Predictions run on the device of a saved config, which may have been changed by hand."""

import pytest
from omegaconf import OmegaConf

from conf.errors import UserError
from lit_modules.inference.device import device_of


def test_device_that_is_no_number_is_refused() -> None:
    assert device_of(OmegaConf.create({"accelerator": "cpu", "devices": [0]})).type == "cpu"
    with pytest.raises(UserError, match=r"^trainer\.devices: 'x' is not the number of a GPU; use devices=gpu$"):
        device_of(OmegaConf.create({"accelerator": "cpu", "devices": ["x"]}))
