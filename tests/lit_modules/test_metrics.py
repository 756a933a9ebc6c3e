"""A metric that the config adds stands wherever the other scores of a run stand."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torchmetrics import Metric

from conf import validation
from conf.errors import UserError
from lit_modules.runs import comparison_report
from tests.conftest import DRAWN, TINY, configure
from tests.fits import fit
from tests.runs import assert_same_runs, rows_of, table
from tests.saved_runs import save

CHOSEN = ("lit_module/metrics=[mcc,ece]", "monitor=val/ece", "mode=min", "lit_module/scheduler=plateau")


class Seen(Metric):
    """Keeps what it is given; not a number where there are more samples than in a trial."""

    shapes: list[tuple[Any, ...]] = []  # noqa: RUF012
    value: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("value", torch.tensor(0.0))

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        self.shapes.append((probabilities.dtype, labels.dtype, *probabilities.shape, *labels.shape))
        self.value += np.nan if len(labels) > 32 else 0.5

    def compute(self) -> Tensor:
        return self.value


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The overrides that choose `Seen`, as if it were a class of Litmus."""
    monkeypatch.setattr("lit_modules.evaluation.curve_metrics.Seen", Seen, raising=False)
    monkeypatch.setattr(Seen, "__module__", "lit_modules.evaluation.curve_metrics")
    Seen.shapes.clear()
    return ("+lit_module.metrics.seen={_target_:lit_modules.evaluation.curve_metrics.Seen,_partial_:true}",)


@pytest.fixture(scope="module")
def folder(shared_run: Callable[..., Path]) -> Path:
    return shared_run(*DRAWN, *CHOSEN, "trainer.max_epochs=3", "callbacks.dashboard=null", "callbacks=[default]")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


def test_files_hold_the_metrics_of_the_best_epoch(folder: Path, summary: dict[str, float]) -> None:
    rows = table(folder)
    best = min(range(3), key=lambda epoch: float(rows[epoch]["val/ece"]))
    assert summary["best_epoch"] == best and "train/mcc" not in rows[0]
    report = (folder / "report.md").read_text()
    for split in ("val", "test"):
        given = [row for row in rows_of(folder) if row["split"] == split]
        expected = matthews_corrcoef([row["true"] for row in given], [row["predicted"] for row in given])
        assert summary[f"{split}/mcc"] == pytest.approx(expected, abs=1e-6)
        assert 0 < summary[f"{split}/auc"] <= 1, "of the report, without being chosen"
    assert float(rows[best]["val/mcc"]) == summary["val/mcc"]
    for name, label in (("mcc", "mcc"), ("ece", "expected calibration error (ECE)")):
        cells = re.search(rf"^\| {re.escape(label)} \| ([\d.-]+).* \| ([\d.-]+).* \|$", report, re.MULTILINE)
        assert cells is not None
        assert [*map(float, cells.groups())] == pytest.approx(
            [summary[f"{s}/{name}"] for s in ("val", "test")], abs=5e-3
        )


def test_tensorboard_holds_the_metrics_by_epoch(folder: Path, summary: dict[str, float]) -> None:
    events = EventAccumulator(str(folder)).Reload()
    rows = table(folder)
    for name in ("mcc", "ece"):
        points = [(event.step, event.value) for event in events.Scalars(f"val/{name}")]
        assert points == [(epoch, pytest.approx(float(rows[epoch][f"val/{name}"]), rel=1e-6)) for epoch in range(3)]
        (best,) = events.Scalars(f"val_best/{name}")
        assert best.value == pytest.approx(summary[f"val/{name}"])
        assert events.Scalars(f"test/{name}")[0].value == pytest.approx(summary[f"test/{name}"])
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    declared = {info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos}
    assert {"val_best/mcc", "test/mcc", "val_best/ece", "test/ece", "val_best/loss"} <= declared
    assert "val_best/top_k" not in declared


def test_resumed_run_has_the_same_metrics(folder: Path, run: Callable[..., Path], tmp_path: Path) -> None:
    cut_off = run(*TINY, *CHOSEN, "trainer.max_epochs=3")
    whole = run(*TINY, *CHOSEN, "trainer.max_epochs=3", f"run_dir={tmp_path / 'whole'}")
    (cut_off / "checkpoints" / "epoch=002.ckpt").unlink()
    (cut_off / "checkpoints" / "last.ckpt").unlink()
    (cut_off / "checkpoints" / "last.ckpt").symlink_to("epoch=001.ckpt")
    run(f"run={cut_off}")
    assert_same_runs(cut_off, whole)
    assert [row["val/ece"] for row in table(whole)] == [row["val/ece"] for row in table(folder)]


def test_console_shows_the_metrics(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(*TINY, "lit_module/metrics=[mcc,top5,ece]")
    out = capsys.readouterr().out
    (row,) = table(folder)
    shown = " ".join(f"{name} {float(row[f'val/{name}']):.4f}" for name in ("likelihood", "mcc", "top5", "ece"))
    assert f" {shown}  lr " in out
    heading = next(line for line in out.splitlines() if line.split()[:1] == ["loss"])
    assert heading.split() == ["loss", "acc", "f1", "likelihood", "ece", "mcc", "top5"]


def test_finished_run_can_be_tested_by_more_metrics(
    folder: Path, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"run={folder}", "task=test", "lit_module/metrics=[saved,top5]")
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["mcc", "top5"]
    with pytest.raises(UserError, match=r"^lit_module\.metrics\.top5\.\w+: this run has None, .* leave it out"):
        run(f"run={folder}", "lit_module/metrics=[saved,top5]")


def test_comparison_shows_the_metrics(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.yaml").write_text((folder / "config.yaml").read_text().replace("    ece:\n", "    other:\n"))
    (plain / "summary.json").write_text((folder / "summary.json").read_text())
    comparison_report.compare([str(folder), str(plain)], tmp_path / "out")
    with open(tmp_path / "out" / "configs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    scores = json.loads((folder / "summary.json").read_text())
    assert float(row["test/mcc/mean"]) == pytest.approx(scores["test/mcc"]), "metrics make no other config"
    report = (tmp_path / "out" / "report.md").read_text()
    assert "## Metrics" in report and f"| val/mcc | {scores['val/mcc']:.4f} ± 0.0000 |" in report


def test_run_of_an_earlier_version_has_no_metrics(tmp_path: Path) -> None:
    save(tmp_path)
    config = tmp_path / "config.yaml"
    assert "  metrics: {}\n" in config.read_text()
    config.write_text(config.read_text().replace("  metrics: {}\n", ""))
    cfg = configure(f"run={tmp_path}")
    validation.check(cfg)
    assert cfg.lit_module.metrics == {}
    added = configure(f"run={tmp_path}", "lit_module/metrics=[mcc]")
    assert list(added.lit_module.metrics) == ["mcc"]


def test_metric_gets_the_whole_split_in_single_precision(seen: tuple[str, ...]) -> None:
    fit(*seen, "trainer.precision=bf16-mixed", "trainer.limit_val_batches=1.0", "datamodule/mix=mixup")
    trial, validated = Seen.shapes
    assert trial[2:] == (32, 10, 32)
    assert validated == (torch.float32, torch.int64, 287, 10, 287)


def test_undefined_metric_is_left_out_unless_monitored(run: Callable[..., Path], seen: tuple[str, ...]) -> None:
    folder = run(*TINY, *seen)
    assert "val/seen" not in table(folder)[0]
    assert not any("seen" in key for key in json.loads((folder / "summary.json").read_text()))


@pytest.mark.parametrize(
    "choices",
    [
        ("monitor=val/seen",),
        ("callbacks=[default,early_stopping]", "callbacks.early_stopping.monitor=val/seen"),
    ],
)
def test_undefined_monitor_ends_the_run_in_one_line(
    run: Callable[..., Path], seen: tuple[str, ...], tmp_path: Path, choices: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.metrics\.seen: val/seen is nan, and is monitored; monitor"):
        run(*TINY, *seen, *choices)
    assert not (tmp_path / "run").exists()


def test_run_without_validation_has_test_metrics(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "lit_module/metrics=[mcc]", "trainer.limit_val_batches=0", "monitor=train/f1")
    scores = json.loads((folder / "summary.json").read_text())
    assert -1 <= scores["test/mcc"] <= 1 and "val/mcc" not in scores
