"""A temperature makes probabilities mean what they say, and is found from a run's predictions alone."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from conf.errors import UserError
from lit_modules.inference.temperature import fit_temperature, temperature_of
from lit_modules.runs import checkpoints
from tests.conftest import TINY


def drawn(temperature: float, samples: int = 20_000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits too large by `temperature`, and labels drawn from the probabilities that are true."""
    generator = np.random.default_rng(0)
    true = generator.normal(0, 2, (samples, classes))
    cumulative = softmax(true, axis=1).cumsum(1)
    return true * temperature, (generator.random((samples, 1)) > cumulative[:, :-1]).sum(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    assert fit_temperature(softmax(logits, axis=1), labels) == pytest.approx(temperature, rel=0.03)


def test_probabilities_tell_the_same_as_logits() -> None:
    """LBFGS on the logits themselves, as the paper's authors do it."""
    logits, labels = drawn(3.0, samples=500)
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.1, max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(torch.tensor(logits) / temperature, torch.tensor(labels))
        value.backward()
        return value

    optimizer.step(loss)
    given = torch.tensor(logits, dtype=torch.float32).softmax(1).double().numpy()
    assert fit_temperature(given, labels) == pytest.approx(temperature.item(), rel=1e-4)


def test_a_probability_that_underflows_does_no_harm() -> None:
    logits, labels = drawn(2.0, samples=500)
    given = np.concatenate([softmax(logits, axis=1), [[1.0, 0, 0, 0]]])
    assert fit_temperature(given, np.append(labels, 0)) == pytest.approx(2, rel=0.2)


def test_samples_that_determine_no_temperature_are_refused() -> None:
    logits, _ = drawn(1.0, samples=100)
    line = r"^calibrate: the validation samples \(accuracy 100.0%\) determine no temperature; "
    with pytest.raises(UserError, match=line):
        fit_temperature(softmax(logits, axis=1), logits.argmax(1))
    with pytest.raises(UserError, match="determine no temperature"):
        fit_temperature(softmax(logits, axis=1), logits.argmin(1))


def write_predictions(folder: Path, best_epoch: int) -> float:
    """What a run leaves of its predictions; returns the temperature that they ask for."""
    logits, labels = drawn(2.0, samples=300)
    given = softmax(logits, axis=1)
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "file", "true", "predicted", *(f"p/{name}" for name in "abcd")])
        for i, (row, label) in enumerate(zip(given, labels, strict=True)):
            writer.writerow(["val", f"{i}.png", "abcd"[label], "abcd"[row.argmax()], *row.tolist()])
            writer.writerow(["test", f"{i} \udcff.png", "abcd"[row.argmax()], "abcd"[row.argmax()], *row.tolist()])
    (folder / "summary.json").write_text(json.dumps({"best_epoch": best_epoch}))
    return fit_temperature(given, labels)


def test_a_run_is_calibrated_by_its_validation_samples_alone(
    run: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run(*TINY)
    expected = write_predictions(folder, checkpoints.best(folder)["epoch"])
    assert temperature_of(folder) == pytest.approx(expected, rel=1e-6)
    run(f"run={folder}", "task=export", "format=torch_export", "calibrate=true")
    extra = {"contract.json": ""}
    program = torch.export.load(folder / "export" / "model.pt2", extra_files=extra)
    assert json.loads(extra["contract.json"])["temperature"] == pytest.approx(expected, rel=1e-6)
    assert program.state_dict["temperature"].item() == pytest.approx(expected, rel=1e-6), "in the graph, too"


def test_predictions_of_another_epoch_or_none_are_refused(run: Callable[..., Path]) -> None:
    folder = run(*TINY)
    write_predictions(folder, checkpoints.best(folder)["epoch"] + 1)
    with pytest.raises(UserError, match=r"^calibrate: \S+predictions.csv is older than the best epoch; "):
        temperature_of(folder)
    (folder / "predictions.csv").write_text("split,file,true\nval,a,b\n")
    with pytest.raises(UserError, match=r"^calibrate: \S+predictions.csv has no readable validation samples; "):
        temperature_of(folder)
