"""report.md is complete: every image that it shows is there, and its figures are those of the run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

import train
from lit_modules.evaluation.significance import wilson
from lit_modules.runs.report import figure_sections
from lit_modules.runs.score_table import digits_of, print_scores, with_interval
from tests.conftest import DRAWN, configure
from tests.runs import rows_of
from tests.samples import evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    train.fit(configure(*DRAWN, "callbacks.dashboard=null", "trainer.max_epochs=3", f"run_dir={folder}"))
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


def test_every_link_leads_to_a_file(report: str, folder: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", report)
    assert len(links) >= 10 and all((folder / link).is_file() for link in links)
    assert {path.name for path in (folder / "report").iterdir()} == {Path(link).name for link in links if "/" in link}


@pytest.mark.parametrize("score", ["acc", "f1", "likelihood", "loss", "ece", "auc", "ap"])
def test_scores_are_those_of_the_summary(report: str, summary: dict[str, float], score: str) -> None:
    assert f"| {with_interval(summary, f'val/{score}')} | {with_interval(summary, f'test/{score}')} |" in report


def test_summary_agrees_with_the_predictions(folder: Path, summary: dict[str, float]) -> None:
    for split in ("val", "test"):
        rows = [row for row in rows_of(folder) if row["split"] == split]
        true, predicted = ([row[name] for row in rows] for name in ("true", "predicted"))
        assert summary[f"{split}/acc"] == pytest.approx(metrics.accuracy_score(true, predicted))
        assert summary[f"{split}/f1"] == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
        assert summary[f"samples/{split}"] == len(rows)
        assert all(0 <= summary[f"{split}/{score}"] <= 1 for score in ("ece", "auc", "ap"))


def test_classes_stand_with_their_scores(report: str, folder: Path) -> None:
    rows = [row for row in rows_of(folder) if row["split"] == "test"]
    expected = metrics.precision_recall_fscore_support(
        [row["true"] for row in rows],
        [row["predicted"] for row in rows],
        labels=list("0123456789"),
        zero_division=np.nan,
    )
    for name, *scores, samples in zip("0123456789", *expected, strict=True):
        cells = " | ".join("–" if np.isnan(score) else f"{score:.4f}" for score in scores)
        assert f"| {name} | {samples} | {cells} |" in report


def test_report_shows_maps_or_says_why_there_are_none(report: str) -> None:
    assert "## Class activation maps\n\n![Class activation maps](report/maps.png)\n\nWhat in a sample" in report
    without = evaluation(2)
    without.explained = "no layer has an output with several positions"
    sections = figure_sections(without, [])
    line = sections.index("## Class activation maps") + 1
    assert sections[line] == "None: no layer has an output with several positions."


def test_worst_mistakes_are_named(report: str, folder: Path) -> None:
    wrong = [row for row in rows_of(folder) if row["split"] == "test" and row["true"] != row["predicted"]]
    worst = max(wrong, key=lambda row: float(row[f"p/{row['predicted']}"]))
    probability = float(worst[f"p/{worst['predicted']}"])
    assert f"| {worst['file']} | {worst['true']} | {worst['predicted']} | {probability:.4f} |" in report


@pytest.mark.parametrize(
    "part", ["DigitsDataModule: 10 classes; 1,151 for training", "CNN: ", "3 epochs in ", "seed 0", "| torch | "]
)
def test_what_was_done_is_stated(report: str, part: str) -> None:
    assert part in report


def test_run_of_two_classes_has_a_threshold(run: Callable[..., Path], images: Path) -> None:
    weird = images / "a|b <i>"
    (images / "dark").rename(weird)
    data = ("datamodule=image_folder", f"datamodule.root={images}")
    folder = run(*DRAWN, *data, "callbacks.dashboard=null", "lit_module.optimizer.lr=1e-9")
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "report/threshold.png" in report and (folder / "report" / "threshold.png").is_file()
    assert "| `a\\|b <i>` |" in report


def test_score_that_does_not_exist_is_left_out(run: Callable[..., Path], images: Path) -> None:
    shutil.move(images, images.with_name("all"))
    for split, names in {"train": ("dark", "light"), "val": ("dark", "light"), "test": ("light",)}.items():
        for name in names:
            shutil.copytree(images.with_name("all") / name, images / split / name)
    data = ("datamodule=image_folder", f"datamodule.root={images}")
    folder = run(*DRAWN, *data, "callbacks.dashboard=null")
    summary = json.loads((folder / "summary.json").read_text())
    assert "val/auc" in summary and "test/auc" not in summary and summary["test/ece"] >= 0
    report = (folder / "report.md").read_text()
    assert f"| {with_interval(summary, 'val/auc')} | – |" in report and "| dark | 0 |" in report


def test_scores_are_printed_with_where_things_lie(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores({"test/loss": 0.25, "test/ece": 0.0125, "val/loss": 9.0}, {"report": Path("logs/x/report.md")})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split() == ["loss", "ece"] and second.split() == ["test", "0.2500", "0.0125"]
    assert third == "report: logs/x/report.md"


def test_score_of_few_samples_has_few_digits() -> None:
    scores = {"test/acc": 22 / 24, "test/acc/low": 0.742, "test/acc/high": 0.977, "test/loss": 0.25}
    assert with_interval(scores, "test/acc") == "0.92 (0.74 – 0.98)" and with_interval(scores, "test/loss") == "0.25"
    for half, digits in ((0.3, 2), (0.1, 2), (0.05, 3), (0.01, 3), (0.002, 4), (1e-6, 4), (0, 4)):
        assert digits_of({"val/f1/low": 0.5 - half, "val/f1/high": 0.5 + half}, "val/f1") == digits


def test_intervals_are_in_the_summary(folder: Path, summary: dict[str, float]) -> None:
    rows = [row for row in rows_of(folder) if row["split"] == "test"]
    correct = sum(row["true"] == row["predicted"] for row in rows)
    assert (summary["test/acc/low"], summary["test/acc/high"]) == wilson(correct, len(rows))
    for score in ("acc", "f1", "likelihood", "ece", "auc"):
        for split in ("val", "test"):
            assert summary[f"{split}/{score}/low"] < summary[f"{split}/{score}"] < summary[f"{split}/{score}/high"]


def test_a_later_test_prints_them_too(
    run: Callable[..., Path], folder: Path, summary: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(f"run={folder}", "task=test")
    out = capsys.readouterr().out
    value, low, high = (line.split() for line in out.splitlines()[-4:-1])
    digits = digits_of(summary, "test/f1")
    for cells, end in ((value, ""), (low, "/low"), (high, "/high")):
        assert f"{summary[f'test/f1{end}']:.{digits}f}" in cells
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing in the folder changes"
