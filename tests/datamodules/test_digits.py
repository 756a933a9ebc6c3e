"""The digits equal those of scikit-learn, scaled to uint8."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from datamodules.digits import DigitsDataModule
from tests.conftest import PLAIN
from tests.samples import labels, pixels


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    module = DigitsDataModule(**PLAIN | {"batch_size": 64, "val_fraction": 0.2, "test_fraction": 0.2})
    module.setup()
    return module


def test_pixels_are_the_scaled_values_of_the_source(digits: DigitsDataModule) -> None:
    source = load_digits().images
    seen = set()
    for name in ("train", "val", "test"):
        positions = [int(file.removeprefix("digits/")) for file in digits.files(name)]
        images = pixels(digits, name)
        assert np.array_equal(np.round(images[:, 0] * (16 / 255)), source[positions])
        assert {0, 255} <= set(np.unique(images)), "the whole range is used"
        seen.update(positions)
    assert seen == set(range(1797))


def test_labels_equal_those_of_the_source(digits: DigitsDataModule) -> None:
    target = load_digits().target
    for name in ("val", "test"):
        assert labels(digits, name) == [target[int(file.removeprefix("digits/"))] for file in digits.files(name)]
    assert digits.class_names == list("0123456789")


def test_splits_are_stratified(digits: DigitsDataModule) -> None:
    whole = np.bincount(load_digits().target)
    test = np.bincount(labels(digits, "test"))
    val = np.bincount(labels(digits, "val"))
    assert np.array_equal(test, np.round(whole * 0.2))
    assert np.array_equal(val, np.round((whole - test) * 0.2))
    assert digits.class_counts == (whole - test - val).tolist()


def test_images_are_grey_squares_of_eight(digits: DigitsDataModule) -> None:
    assert digits.input_shape == (1, 8, 8)
