"""A cross-validation predicts each sample once, by a run not trained on it, also after a kill and a resume."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.model_selection import StratifiedKFold

from conf.errors import UserError
from conf.files import lock_inherited
from lit_modules.evaluation.significance import corrected_t
from lit_modules.runs import folds
from lit_modules.runs.folds import cross_validate
from tests.conftest import ROOT, configure, error_line
from tests.runs import rows_of

# Stands for train.py where a study's own doings are tested: a run that predicts ten samples, one of them wrongly.
RUN = r"""
import csv, json, sys, time
from pathlib import Path
options = dict(argument.lstrip("+").split("=", 1) for argument in sys.argv[1:])
fold, seed = (int(options[f"datamodule.{key}"]) for key in ("fold", "split_seed"))
folder = Path(options["run_dir"].strip("'"))
if options.get("seed") == "1":
    sys.exit("error: datamodule.root: is missing; give another")
folder.mkdir(exist_ok=True)
with open(folder.parent.parent / "starts.csv", "a") as file:
    file.write(f"{folder.name}\n")
if options.get("seed") == "2" and folder.name == "001" and not (folder / "tried").exists():
    (folder / "tried").touch()
    sys.exit("RuntimeError: out of memory")
(folder / "metrics.csv").write_text("epoch\n0\n")
facts = {f"test/{score}": 0.5 + fold / 10 + seed / 100 for score in ("loss", "acc", "f1", "likelihood")}
facts |= {"samples/train": 18, "samples/test": 10, "best_epoch": 0, "seconds": 1.0, "val/f1": 0.5}
(folder / "summary.json").write_text(json.dumps(facts))
rows = []
for i in range(fold * 10, fold * 10 + 10):
    predicted = i % 2 if i % 10 else 1 - i % 2
    rows.append(["test", f"s{i}", "ab"[i % 2], "ab"[predicted], 0.9 - 0.8 * predicted, 0.1 + 0.8 * predicted])
with open(folder / "predictions.csv", "w", newline="") as file:
    csv.writer(file).writerows([["split", "file", "true", "predicted", "p/a", "p/b"], *rows])
(folder / "report.md").touch()
"""


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Runs or resumes a study of such runs in this process."""
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py")])
    monkeypatch.setattr(folds, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def begin(*texts: str) -> Path:
        study = tmp_path / "study"
        command_line = [*texts, f"run={study}" if (study / "config.yaml").exists() else f"run_dir={study}"]
        cross_validate(configure(*command_line), command_line)
        return study

    return begin


def starts(folder: Path) -> list[str]:
    return sorted((folder / "starts.csv").read_text().split())


def test_results_are_those_of_all_runs(begin: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = begin("folds=3", "repeats=2", "workers=3", "epochs=1")
    assert starts(folder) == [f"{number:03d}" for number in range(6)]
    summary = json.loads((folder / "summary.json").read_text())
    values = np.array([0.5, 0.6, 0.7, 0.51, 0.61, 0.71])
    test = corrected_t(values, 10 / 18)
    assert summary["test/acc"] == pytest.approx(values.mean())
    assert summary["test/acc/std"] == pytest.approx(values.std(ddof=1))
    assert summary["test/loss/low"] == pytest.approx(test.interval.low)
    assert summary["test/acc/high"] == pytest.approx(min(1, test.interval.high))
    rows = rows_of(folder)
    assert [row["file"] for row in rows] == [f"s{i}" for i in range(30)] and {row["split"] for row in rows} == {"test"}
    with open(folder / "confusion.csv", newline="") as file:
        confusion = [[int(row["a"]), int(row["b"])] for row in csv.DictReader(file)]
    assert confusion == confusion_matrix([row["true"] for row in rows], [row["predicted"] for row in rows]).tolist()
    report = (folder / "report.md").read_text()
    assert "| folds/005 | 1 | 2 | 10 | 1 | 0.7100 |" in report and "| s10 | a | b | 0.9000 |" in report
    assert {"folds.png", "confusion.png"} <= {path.name for path in (folder / "report").iterdir()}
    output = capsys.readouterr().out
    assert "fold 3/3 of repeat 2  test acc 0.7100" in output and " s left" in output


def test_only_runs_that_are_missing_are_trained(begin: Callable[..., Path]) -> None:
    with pytest.raises(
        UserError, match=r"/001\.log: the run failed \(RuntimeError: out of memory\); correct the cause,"
    ):
        begin("folds=3", "seed=2", "epochs=1")
    for wrong in ("seed=3", "folds=4", "epochs=2"):
        with pytest.raises(UserError, match=f"^{wrong.split('=')[0]}"):
            begin(wrong)
    folder = begin()
    assert starts(folder) == ["000", "001", "001", "002"]
    assert starts(begin("repeats=2")) == ["000", "001", "001", "002", "003", "004", "005"]
    assert OmegaConf.load(folder / "config.yaml").repeats == 2


def test_run_that_outlived_its_study_is_waited_for(begin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin("folds=2", "epochs=1")
    (folder / "folds" / "000" / "report.md").unlink()
    log = lock_inherited(folder / "folds" / "000.log")
    assert log

    def end(_seconds: float) -> None:
        (folder / "folds" / "000" / "report.md").touch()
        log.close()

    monkeypatch.setattr(time, "sleep", end)
    assert starts(begin()) == ["000", "001"]


def test_wrong_input_leaves_no_study_behind(begin: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^datamodule\.root: is missing; give another$"):
        begin("folds=3", "seed=1")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["folds=1"], "folds: must be at least 2, not 1; "),
        (["repeats=2"], "repeats: is of a cross-validation; add folds=5"),
        (["folds=2", "workers=0"], "repeats, workers: must be at least 1; "),
        (["folds=2", "test=false"], "test: each fold is the test split of a run; "),
        (["folds=2", "task=tune"], "folds: task=tune does not cross-validate; "),
        (["datamodule.fold=2", "epochs=1"], "datamodule.fold: 2 is no fold, as there are none; "),
    ],
)
def test_wrong_keys_of_folds_are_one_line(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, texts: list[str], line: str
) -> None:
    result = command(*texts, f"run_dir={tmp_path / 'study'}")
    assert error_line(result.returncode, result.stderr).startswith(line)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_folds_are_scikit_learns_and_survive_a_kill(tmp_path: Path) -> None:
    own = [
        "+experiment=digits",
        "devices=cpu",
        "lit_module.net.channels=[4,8,8]",
        "epochs=2",
        "++callbacks.dashboard=null",
        "folds=3",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "LITMUS_STAMP"}

    def start(*texts: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "train.py", *texts]
        return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    assert start(*own, f"run_dir={tmp_path / 'whole'}").wait(600) == 0
    killed = tmp_path / "killed"
    process = start(*own, f"run_dir={killed}")
    while not list(killed.glob("folds/001/checkpoints/epoch=000.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = (killed / "folds" / "000" / "report.md").stat().st_mtime_ns
    assert start(f"run={killed}").wait(600) == 0
    assert (killed / "folds" / "000" / "report.md").stat().st_mtime_ns == first, "it was not trained again"
    assert (killed / "predictions.csv").read_bytes() == (tmp_path / "whole" / "predictions.csv").read_bytes()

    labels = load_digits().target
    expected = [test for _, test in StratifiedKFold(3, shuffle=True, random_state=0).split(labels, labels)]
    rows = {int(row["file"].removeprefix("digits/")): row for row in rows_of(killed)}
    assert sorted(rows) == list(range(len(labels)))
    accuracies = []
    for fold, test in enumerate(expected):
        of_run = {int(row["file"][7:]) for row in rows_of(killed / "folds" / f"{fold:03d}") if row["split"] == "test"}
        assert of_run == set(test.tolist())
        accuracies.append(accuracy_score(labels[test], [int(rows[i]["predicted"]) for i in test.tolist()]))
    summary = json.loads((killed / "summary.json").read_text())
    assert summary["test/acc"] == pytest.approx(np.mean(accuracies))
    assert summary["test/acc/std"] == pytest.approx(np.std(accuracies, ddof=1))
