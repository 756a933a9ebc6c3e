"""Prediction sets hold the true class as often as stated, and the export decides as the prediction does."""

import csv
import json
import math
import runpy
import shutil
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conf.errors import UserError
from lit_modules.evaluation.significance import wilson
from lit_modules.inference.conformal import prediction_sets, set_threshold
from lit_modules.inference.thresholds import rescaled
from lit_modules.runs.predictions_csv import read_predictions
from lit_modules.runs.uncertainty import set_scores
from litmus import load_run
from tests.conftest import DRAWN, write_images
from tests.samples import evaluation


def drawn(samples: int, classes: int = 5, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them; sharper probabilities are overconfident."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet([0.5] * classes, samples)
    labels = (generator.random((samples, 1)) > probabilities.cumsum(1)[:, :-1]).sum(1)
    return rescaled(probabilities, 1 / sharpness).astype(np.float32), labels


def mass_ahead(probabilities: np.ndarray) -> np.ndarray:
    """The APS score with u = 0, by definition: the probability of all more probable classes, `[N, num_classes]`."""
    return np.array([[sum(q for q in row if q > p) for p in row] for row in probabilities.astype(float).tolist()])


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_are_those_of_the_definition(coverage: float) -> None:
    (probabilities, labels), (new, _) = drawn(199), drawn(300, seed=1)
    scores = np.sort(mass_ahead(probabilities)[np.arange(199), labels])
    expected = mass_ahead(new) <= scores[math.ceil(200 * coverage - 1e-9) - 1] + 1e-4
    found = prediction_sets(new, set_threshold(probabilities, labels, coverage))
    assert (found != expected).mean() < 0.005, "but for rounding"
    assert found.any(1).all() and found[np.arange(300), new.argmax(1)].all()


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_mean_coverage_lies_within_the_stated_bounds(sharpness: float) -> None:
    samples, coverage, covered = 49, 0.9, []
    for seed in range(400):
        probabilities, labels = drawn(samples + 200, seed=seed, sharpness=sharpness)
        threshold = set_threshold(probabilities[:samples], labels[:samples], coverage)
        covered.append(prediction_sets(probabilities[samples:], threshold)[np.arange(200), labels[samples:]].mean())
    error = 3 * np.std(covered) / math.sqrt(len(covered))
    assert coverage - error < np.mean(covered) < coverage + 1 / (samples + 1) + error


def test_equally_probable_classes_are_in_a_set_together() -> None:
    probabilities = np.array([[0.4, 0.3, 0.3], [0.5, 0.5, 0.0]], np.float32)
    sets = prediction_sets(probabilities, 0.55)
    assert sets.tolist() == [[True, True, True], [True, True, False]]


def test_sum_that_rounds_below_the_threshold_leaves_one_class() -> None:
    assert prediction_sets(np.array([[0.9, 0.0999]]), 1.0).tolist() == [[True, False]]


def test_a_coverage_that_few_samples_cannot_state_is_refused() -> None:
    probabilities, labels = drawn(18)
    with pytest.raises(UserError, match=r"^coverage: 0.95 needs 19 validation samples, and the run has 18; "):
        set_threshold(probabilities, labels, 0.95)
    set_threshold(*drawn(19), 0.95)
    with pytest.raises(UserError, match=r"^coverage: 95.0 is not between 0 and 1; choose coverage=0.95"):
        set_threshold(probabilities, labels, 95.0)


def test_temperature_of_probabilities_is_that_of_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))
    softmax = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (logits, logits / 2.5)]
    np.testing.assert_allclose(rescaled(softmax[0], 2.5), softmax[1], rtol=1e-9)


def test_summary_counts_coverage_of_each_class() -> None:
    val, test = evaluation(4), evaluation(4, samples=300)
    scores = set_scores({"val": val, "test": test})
    sets = prediction_sets(test.predictions.probabilities, scores["sets/0.9/threshold"])
    true = test.predictions.true
    assert scores["sets/0.9/coverage"] == np.mean(
        [label in np.flatnonzero(row) for label, row in zip(true, sets, strict=True)]
    )
    assert scores["sets/0.9/size/class 2"] == pytest.approx(sets[true == 2].sum(1).mean())
    low, high = wilson(round(scores["sets/0.95/coverage"] * 300), 300)
    assert low < 0.95 < high
    assert set_scores({"test": test}) == {} == set_scores({"val": evaluation(4, samples=5), "test": test})


@pytest.fixture(scope="module")
def trained_run(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images that are easy to tell apart, which are in its parent folder."""
    images = tmp_path_factory.mktemp("conformal") / "images"
    write_images(images / "dark", 80, level=100)
    write_images(images / "light", 80, level=130, suffix="bmp")
    choices = (*DRAWN, "lit_module.net.pool=2", "++callbacks.dashboard=null")
    folder = shared_run("+experiment=from_scratch", f"datamodule.root={images}", *choices)
    shutil.copytree(images, folder.parent / "images")
    return folder


def test_prediction_and_export_give_the_same_sets(
    run: Callable[..., Path],
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = (f"run={trained_run}", "calibrate=true", "coverage=0.8")
    image = trained_run.parent / "images" / "dark" / "000.png"
    run(*options, "task=predict", f"input={image}", f"output={tmp_path / 'out'}")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    record = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert json.loads(row["set"]) == record["set"] and record["predicted"] == record["set"][0]
    loaded = load_run(trained_run, device="cpu", calibrate=True)
    assert loaded.predict_set(image, coverage=0.8) == record["set"]
    run(*options, "task=export", "format=torch_export", f"output={tmp_path / 'export'}")
    monkeypatch.chdir(tmp_path / "export")
    monkeypatch.setattr(sys, "argv", ["", str(image)])
    capsys.readouterr()
    runpy.run_path("example_torch_export.py", run_name="__main__")
    assert sorted(record["set"]) == literal_eval(capsys.readouterr().out.splitlines()[-1].removeprefix("set: "))


def test_sets_are_not_given_for_averages_of_views(run: Callable[..., Path], trained_run: Path) -> None:
    images = trained_run.parent / "images"
    with pytest.raises(UserError, match=r"^tta: coverage was not fitted to averages with mirrored images; "):
        run(f"run={trained_run}", "task=predict", f"input={images}", "coverage=0.8", "tta=flip")
    assert len(read_predictions(trained_run / "predictions.csv")["val"].files) >= 9


def test_sum_equal_to_the_threshold_reaches_it() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0]], np.float32)
    assert prediction_sets(probabilities, 0.5).tolist() == [[True, True, True], [True, False, False]]
