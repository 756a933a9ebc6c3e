"""metrics.csv has one row an epoch, and the console one line."""

import csv
from pathlib import Path

import pytest

from conf.files import read_rows
from lit_modules.loggers.epoch_csv import EpochCSVLogger


def scores(epoch: int, *splits: str) -> dict[str, float]:
    """What the classifier logs at the end of an epoch, with values that tell the epoch."""
    named = {
        f"{split}/{name}": epoch + i / 10
        for split in splits
        for i, name in enumerate(("loss", "acc", "f1", "likelihood"))
    }
    return named | {f"{split}_likelihood/cat": 0.5 for split in splits} | {"lr": 0.001, "seconds": 1.25}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def table(tmp_path: Path) -> EpochCSVLogger:
    return EpochCSVLogger(str(tmp_path / "run"), max_epochs=3)


def test_rows_hold_the_scores_of_their_epochs(table: EpochCSVLogger, tmp_path: Path) -> None:
    for epoch in range(3):
        table.log_metrics(scores(epoch, "train", "val"), step=epoch)
    rows = rows_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for epoch, row in enumerate(rows):
        expected = {k: v for k, v in scores(epoch, "train", "val").items() if "_likelihood/" not in k}
        assert {name: float(value) for name, value in row.items()} == {"epoch": epoch, **expected}
    assert read_rows(tmp_path / "run" / "metrics.csv") == rows


def test_resumed_epochs_stand_once(table: EpochCSVLogger, tmp_path: Path) -> None:
    for epoch in range(3):
        table.log_metrics(scores(epoch, "train", "val"), step=epoch)
    before = rows_of(tmp_path / "run")
    resumed = EpochCSVLogger(str(tmp_path / "run"), max_epochs=4)
    for epoch in (2, 3):
        resumed.log_metrics(scores(10 + epoch, "train", "val"), step=epoch)
    rows = rows_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[:2] == before[:2]
    assert [row["train/loss"] for row in rows[2:]] == ["12.0", "13.0"]


def test_row_without_validation_leaves_its_cells_empty(table: EpochCSVLogger, tmp_path: Path) -> None:
    table.log_metrics(scores(0, "train"), step=0)
    table.log_metrics(scores(1, "train", "val"), step=1)
    first, second = rows_of(tmp_path / "run")
    assert first["val/f1"] == "" and float(second["val/f1"]) == pytest.approx(1.2)
    assert float(first["train/loss"]) == 0


def test_console_gets_a_line_an_epoch(table: EpochCSVLogger, capsys: pytest.CaptureFixture[str]) -> None:
    table.log_metrics(scores(1, "train", "val"), step=1)
    assert capsys.readouterr().out == (
        "epoch 2/3  train loss 1.0000 f1 1.2000 acc 1.1000 likelihood 1.3000"
        "  val loss 1.0000 f1 1.2000 acc 1.1000 likelihood 1.3000  lr 0.001  1.2 s\n"
    )


@pytest.mark.parametrize("max_epochs", [None, -1])
def test_console_names_no_end_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], max_epochs: int | None
) -> None:
    EpochCSVLogger(str(tmp_path), max_epochs).log_metrics(scores(0, "train"), step=0)
    assert capsys.readouterr().out.startswith("epoch 1  train loss")


def test_test_scores_are_no_row(table: EpochCSVLogger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.log_metrics({"test/loss": 0.25, "test/acc": 0.75, "test_likelihood/cat": 0.5}, step=3)
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()


def test_line_holds_the_speed_where_it_was_measured(table: EpochCSVLogger, capsys: pytest.CaptureFixture[str]) -> None:
    table.log_metrics({**scores(0, "train"), "images_per_second": 1234.5, "data_wait": 0.1}, step=0)
    assert capsys.readouterr().out.endswith("  lr 0.001  img/s 1,234  1.2 s\n")


def test_hyperparameters_and_other_metrics_are_passed_over(
    table: EpochCSVLogger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.log_hyperparams({"lr": 0.1})
    table.log_metrics({"val_best/f1": 0.5}, step=0)
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()


def test_table_survives_a_write_that_fails(
    table: EpochCSVLogger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    table.log_metrics(scores(0, "train"), step=0)
    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="No space left"):
        table.log_metrics(scores(1, "train"), step=1)
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["0"]


def test_no_table_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.csv") == []
