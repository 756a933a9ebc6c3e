"""Runs with several labels a sample: their files, tasks, exports, comparison and resume."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, logit
from sklearn import metrics

from conf.errors import UserError
from conf.files import read_rows
from lit_modules.inference.label_thresholds import best_thresholds
from lit_modules.inference.temperature import temperature_of
from lit_modules.runs.predictions_csv import read_predictions
from litmus import load_run
from tests.conftest import DRAWN
from tests.runs import EPOCHS, assert_same_runs, cut_off_after, rows_of

SCENES = (*DRAWN, "+experiment=scenes", "datamodule.count=300", "datamodule.noise=0.0")


@pytest.fixture(scope="module")
def photographs(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images that are red, blue, both or neither, from a table."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "images").mkdir()
    generator, rows = np.random.default_rng(0), ["file,label"]
    for i in range(60):
        red, blue = bool(i % 2), i % 3 == 0
        pixels = generator.integers(60, 120, (8, 8, 3), np.uint8)
        pixels[:, :, 0] += 90 * red
        pixels[:, :, 2] += 90 * blue
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        rows.append(f"{i}.png,{'|'.join(['red'] * red + ['blue'] * blue)}")
    (root / "table.csv").write_text("\n".join(rows))
    data = ("datamodule=image_folder", f"datamodule.root={root / 'table.csv'}", "datamodule.multi_label=true")
    splits = ("datamodule.val_fraction=0.3", "datamodule.batch_size=8", "lit_module/loss=bce", "trainer.max_epochs=4")
    return shared_run(*DRAWN[:-1], *data, *splits, f"run_dir={root / 'run'}")


@pytest.fixture(scope="module")
def scenes(shared_run: Callable[..., Path]) -> Path:
    return shared_run(*SCENES)


def test_the_files_of_a_run_agree_with_scikit_learn(scenes: Path) -> None:
    summary = json.loads((scenes / "summary.json").read_text())
    for split, evaluation in read_predictions(scenes / "predictions.csv").items():
        true, predicted, p = evaluation.predictions[1:4]
        assert evaluation.is_multi_label and true.shape[1] == 4
        assert summary[f"{split}/acc"] == pytest.approx(metrics.accuracy_score(true, predicted), abs=1e-6)
        f1 = metrics.f1_score(true, predicted, average="macro", zero_division=np.nan)
        assert summary[f"{split}/f1"] == pytest.approx(f1, abs=1e-6)
        assert summary[f"{split}/hamming"] == pytest.approx(metrics.hamming_loss(true, predicted), abs=1e-6)
        assert summary[f"{split}/ap"] == pytest.approx(metrics.average_precision_score(true, p), abs=1e-5)
        assert summary[f"{split}/acc/low"] <= summary[f"{split}/acc"] <= summary[f"{split}/acc/high"]
    val, test = (read_predictions(scenes / "predictions.csv")[split].predictions for split in ("val", "test"))
    for label, threshold in enumerate(best_thresholds(val.probabilities, val.true)):
        name = ["cross", "disc", "ring", "square"][label]
        assert summary[f"threshold/{name}"] == pytest.approx(threshold)
        f1 = metrics.f1_score(test.true[:, label], test.probabilities[:, label] >= threshold)
        assert summary[f"threshold/{name}/f1"] == pytest.approx(f1)
    report = (scenes / "report.md").read_text(encoding="utf-8")
    for part in ("subset accuracy", "Hamming loss", "## Labels that occur together", "## Decision thresholds"):
        assert part in report
    assert not (scenes / "confusion.csv").exists() and "confusion" not in report


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (("task=predict", "coverage=0.9"), "coverage: a set holds one true class"),
        (("task=predict", "threshold=null"), "threshold: None is neither between 0 and 1 nor f1"),
        (("task=predict", "threshold=f1", "tta=flip"), "tta: threshold was not fitted to averages"),
        (("task=predict", "threshold=2"), "threshold: 2 is neither between 0 and 1 nor f1"),
        (("task=audit",), "task: audit judges one label a sample"),
    ],
)
def test_what_needs_one_label_is_refused(
    photographs: Path, run: Callable[..., Path], choices: tuple[str, ...], message: str
) -> None:
    inputs = (f"input={photographs.parent}",) if "task=predict" in choices else ()
    with pytest.raises(UserError) as error:
        run(f"run={photographs}", *choices, *inputs, f"output={photographs.parent.parent / 'out'}")
    assert message in str(error.value)


@pytest.mark.parametrize("threshold", ["0.5", "f1"])
def test_predictions_follow_the_thresholds(
    photographs: Path, run: Callable[..., Path], tmp_path: Path, threshold: str
) -> None:
    output = tmp_path / "out"
    choices = ("calibrate=true", "unknown=0.2", f"threshold={threshold}", f"output={output}")
    run(f"run={photographs}", "task=predict", f"input={photographs.parent / 'images'}", *choices)

    val = read_predictions(photographs / "predictions.csv")["val"].predictions
    temperatures = temperature_of(photographs)
    calibrated = expit(logit(val.probabilities.astype(np.float64)) / temperatures)
    thresholds = best_thresholds(calibrated, val.true) if threshold == "f1" else np.full(2, 0.5)
    records = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 60
    for record, row in zip(records, rows_of(output), strict=True):
        probabilities = record["probabilities"]
        expected = [name for name, at in zip(("blue", "red"), thresholds, strict=True) if probabilities[name] >= at]
        assert record["predicted"] == expected == json.loads(row["predicted"])
        assert record["probability"] == max(probabilities.values())


def test_an_export_holds_the_sigmoid(photographs: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run(f"run={photographs}", "task=export", "format=onnx", "input=float", f"output={tmp_path}", "threshold=f1")

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    contract = json.loads(session.get_modelmeta().custom_metadata_map["contract"])
    val = read_predictions(photographs / "predictions.csv")["val"].predictions
    assert contract["thresholds"] == best_thresholds(val.probabilities, val.true).tolist()
    network = load_run(photographs)
    inputs = np.random.default_rng(0).random((3, *network.input_shape), np.float32)
    answers = [list(answer.values()) for answer in network.predict(list(inputs))]
    np.testing.assert_allclose(session.run(None, {"inputs": inputs})[0], answers, atol=1e-6)
    assert not np.allclose(np.sum(answers, 1), 1)


def test_runs_with_several_labels_are_compared(scenes: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    other = run(*SCENES, "seed=1", f"run_dir={tmp_path / 'other'}")
    run("task=compare", f"runs=[{scenes},{other}]", f"output={tmp_path / 'comparison'}")
    (pair,) = read_rows(tmp_path / "comparison" / "pairs.csv")
    runs = [read_predictions(folder / "predictions.csv")["test"].predictions for folder in (scenes, other)]
    f1 = [metrics.f1_score(part.true, part.predicted, average="macro", zero_division=np.nan) for part in runs]
    assert abs(float(pair["f1/difference"])) == pytest.approx(abs(f1[0] - f1[1]), abs=1e-9)
    assert float(pair["images"]) == len(runs[0].true)


def test_a_resumed_run_has_the_same_bits(run: Callable[..., Path], tmp_path: Path) -> None:
    choices = (*SCENES, "++callbacks.predictions=null", "++callbacks.dashboard=null", f"epochs={EPOCHS}")
    mixed = (*choices, "datamodule/mix=cutmix", "lit_module/loss=asymmetric")
    whole = run(*mixed, f"run_dir={tmp_path / 'whole'}", f"trainer.max_epochs={EPOCHS}")
    stopped = run(*mixed, f"run_dir={tmp_path / 'stopped'}", f"trainer.max_epochs={EPOCHS}")
    cut_off_after(stopped, 1)
    run(f"run={stopped}")
    assert_same_runs(stopped, whole)
