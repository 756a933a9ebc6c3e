"""task=audit lists wrong labels and conflicting duplicates; the corrected table is what a later run trains on."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from conf import saved_config
from conf.errors import UserError
from conf.files import write_table
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.predictions import Predictions
from lit_modules.runs.audit import audit
from lit_modules.runs.predictions_csv import read_predictions, write_predictions
from tests.conftest import Command, configure
from tests.saved_runs import save

NAMES = ["ant", "=bee"]


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions_of(folder: Path, true: list[int], of_bee: list[float]) -> dict[str, Evaluation]:
    """As read from a run's file: samples val/0, val/1, … with these labels and probabilities of the second class."""
    probabilities = np.array([[1 - p, p] for p in of_bee], np.float32)
    files = [f"val/{i}" for i in range(len(true))]
    labels = np.array(true)
    none = np.zeros(0, np.int64)
    predictions = Predictions(np.arange(len(true)), labels, probabilities.argmax(1), probabilities, none)
    write_predictions(folder / "predictions.csv", {"val": Evaluation(NAMES, files, predictions, np.zeros((0, 0)))})
    return read_predictions(folder / "predictions.csv")


def images(files: Sequence[str]) -> np.ndarray:
    return np.full((len(files), 1, 4, 4), 0.5, np.float32)


TRUE, OF_BEE = [0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.97, 0.9, 0.04, 0.95]


def test_wrong_labels_then_duplicates_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = {f"val/{i}": NAMES[label] for i, label in enumerate(TRUE)} | {"train/0": "ant", "train/1": "=bee"}
    group = [{"file": file, "class": classes[file]} for file in ("val/2", "train/1")]
    output = tmp_path / "audit"
    audit(predictions_of(tmp_path, TRUE, OF_BEE), classes, [{"files": group}], images, output)
    rows = [list(row.values()) for row in rows_of(output / "label_errors.csv")]
    assert rows == [
        ["val/2", "ant", "'=bee", "0.9700", "train/1 (=bee)", ""],
        ["val/4", "'=bee", "ant", "0.9600", "", ""],
        ["train/1", "'=bee", "", "", "val/2 (ant)", ""],
    ]
    assert (output / "contact_sheet.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    for words in ("2 of 6 labels", "2 samples were not judged", "1 groups of duplicates", "val/4: =bee → ant 0.96"):
        assert words in printed


def test_present_labels_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrected = {f"val/{i}": NAMES[label] for i, label in enumerate(TRUE)} | {"val/2": "=bee"}
    del corrected["val/4"]  # dropped
    audit(predictions_of(tmp_path, TRUE, OF_BEE), corrected, [], images, tmp_path / "audit")
    assert "0 of 5 labels are probably wrong" in capsys.readouterr().out
    assert not (tmp_path / "audit").exists()


def test_predictions_of_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="predicted none of these samples"):
        audit(predictions_of(tmp_path, TRUE, OF_BEE), {"a.png": "ant"}, [], images, tmp_path / "audit")
    with pytest.raises(UserError, match="the run has no class 'wasp'"):
        audit(predictions_of(tmp_path, TRUE, OF_BEE), {"val/0": "wasp"}, [], images, tmp_path / "audit")


def test_corrected_table_is_kept_by_the_run(tmp_path: Path) -> None:
    table, folder = tmp_path / "new.csv", tmp_path / "run"
    write_table(table, [{"file": "digits/0000", "new_label": "7"}, {"file": "digits/0001", "new_label": "drop"}])
    save(folder, f"datamodule.relabel={table}")
    assert (folder / "relabel.csv").read_text() == table.read_text()
    resumed = configure(f"run={folder}")
    assert resumed.datamodule.relabel == str(folder / "relabel.csv")
    restarted = configure(f"run={folder}", f"datamodule.relabel={table}")  # a restarted job repeats its command
    for cfg in (resumed, restarted):
        saved_config.check_unchanged(folder, cfg)
    write_table(table, [{"file": "digits/0000", "new_label": "8"}])
    saved_config.check_unchanged(folder, resumed)
    saved_config.check_unchanged(folder, configure(f"run={folder}", "task=test", f"datamodule.relabel={table}"))
    with pytest.raises(UserError, match=r"datamodule\.relabel: this run has .*, and a resumed run keeps it"):
        saved_config.check_unchanged(folder, restarted)


def test_run_is_audited_with_its_labels(command: Command, tmp_path: Path) -> None:
    table, folder = tmp_path / "new.csv", tmp_path / "run"
    write_table(table, [{"file": f"digits/{i:04d}", "new_label": "9"} for i in range(0, 20, 10)])  # zeros
    save(folder, f"datamodule.relabel={table}")
    labels = load_digits().target[:50]
    probabilities = np.eye(10, dtype=np.float32)[labels]
    predictions = Predictions(np.arange(50), labels, labels, probabilities, np.zeros(0, np.int64))
    digits = Evaluation([str(i) for i in range(10)], [f"digits/{i:04d}" for i in range(50)], predictions, np.zeros(0))
    write_predictions(folder / "predictions.csv", {"test": digits})
    result = command(f"run={folder}", "task=audit", f"output={tmp_path / 'audit'}")
    assert result.returncode == 0, result.stderr
    assert "2 of 50 labels are probably wrong\n1,747 samples were not judged" in result.stdout
    rows = [(row["file"], row["label"], row["suggested"]) for row in rows_of(tmp_path / "audit" / "label_errors.csv")]
    assert rows == [("digits/0000", "9", "0"), ("digits/0010", "9", "0")]


def test_received_run_names_no_table_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("relabel: null", "relabel: /etc/passwd"))
    with pytest.raises(UserError, match=r"datamodule\.relabel is /etc/passwd; a run's folder may not decide that"):
        configure(f"run={tmp_path / 'run'}")
