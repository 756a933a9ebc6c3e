"""Synthetic data: a linear model is at chance, and a CNN learns it in a short run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from conf.errors import UserError
from datamodules.synthetic import SeriesDataModule, SyntheticDataModule, VolumesDataModule
from tests.conftest import PLAIN, TINY, inputs_of

BOTH = pytest.mark.parametrize("kind", [SeriesDataModule, VolumesDataModule])


def module_of(kind: type[SyntheticDataModule], **changes: Any) -> SyntheticDataModule:
    parameters = {key: PLAIN[key] for key in kind.__dataclass_fields__ if key in PLAIN}
    module = kind(**parameters | {"count": 400, "noise": 0.3} | changes)
    module.setup()
    return module


def linear_accuracy(inputs: np.ndarray, labels: np.ndarray) -> float:
    """Of a model fitted to the first half, on the second half."""
    half = len(labels) // 2
    flat = inputs.reshape(len(labels), -1)
    model = RidgeClassifier().fit(flat[:half], labels[:half])
    return float(model.score(flat[half:], labels[half:]))


def drawn(kind: type[SyntheticDataModule], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples without noise `[N, *spatial]`, and their labels."""
    labels = np.arange(count) % 4
    return module_of(kind, count=40).draw(labels, np.random.default_rng(1)), labels


@BOTH
def test_linear_model_is_about_at_chance(kind: type[SyntheticDataModule]) -> None:
    inputs, labels = drawn(kind, 1600)
    noisy = inputs + 0.3 * np.random.default_rng(2).standard_normal(inputs.shape)
    assert linear_accuracy(noisy, labels) == pytest.approx(0.25, abs=0.06)  # 4 standard deviations


def peak_frequency(series: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(series, 512)).argmax(1)


def test_chirp_rises_in_rising_classes() -> None:
    inputs, labels = drawn(SeriesDataModule, 200)
    for half, rises in enumerate((labels // 2, labels % 2)):
        part = inputs[:, 64 * half : 64 * half + 64]
        middle = (np.arange(64) * part**2).sum(1) / (part**2).sum(1)
        before = peak_frequency(np.where(np.arange(64) < middle[:, None], part, 0))
        after = peak_frequency(np.where(np.arange(64) > middle[:, None], part, 0))
        assert np.array_equal(after > before, rises.astype(bool))


def test_solids_have_one_size_and_both_contrasts() -> None:
    inputs, labels = drawn(VolumesDataModule, 400)
    voxels = np.abs(inputs).sum((1, 2, 3))
    assert all(180 < voxels[labels == label].mean() < 220 for label in range(4))
    assert set(np.unique(inputs)) == {-1, 0, 1}


@BOTH
def test_samples_depend_on_the_split_seed_alone(kind: type[SyntheticDataModule]) -> None:
    first, same, other = module_of(kind), module_of(kind, seed=5), module_of(kind, split_seed=1)
    assert np.array_equal(inputs_of(first, "val"), inputs_of(same, "val"))
    assert not np.array_equal(inputs_of(first, "val"), inputs_of(other, "val"))
    assert np.array_equal(np.bincount(first.split("test").labels), [25] * 4)


@BOTH
def test_too_few_samples_are_rejected(kind: type[SyntheticDataModule]) -> None:
    with pytest.raises(UserError, match=r"^datamodule.count: must be 40 or more"):
        module_of(kind, count=39)


@pytest.mark.parametrize("name", ["series", "volumes"])
def test_short_run_learns(run: Callable[..., Path], name: str) -> None:
    easy = ("datamodule.noise=0", "datamodule.count=400", "datamodule.batch_size=8", "lit_module.optimizer.lr=0.01")
    small = ("lit_module.net.channels=[8,16,16]", "trainer.max_epochs=3")
    folder = run(f"+experiment={name}", "devices=cpu", *TINY[3:], *easy, *small)
    assert json.loads((folder / "summary.json").read_text())["test/acc"] > 0.5
