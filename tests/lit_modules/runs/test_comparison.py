"""A comparison shows every run, whatever its state, and says which differences are real."""

import csv
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from sklearn.metrics import f1_score

from conf.errors import UserError
from lit_modules.evaluation import significance
from lit_modules.runs import comparison, comparison_report
from tests.conftest import ROOT

NAMES = ["cat", "dog", "owl"]
TRUE = np.random.default_rng(0).integers(3, size=200)
HEADER = ["split", "file", "true", "predicted", *(f"p/{name}" for name in NAMES)]
PROBABILITIES = [0.5, 0.3, 0.2]  # which no comparison reads


def guess(share: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(TRUE)) < share, TRUE, generator.integers(3, size=len(TRUE)))


def write_run(
    folder: Path, share: float, *, lr: float = 0.1, seed: int = 0, files: str = "p/{:03d}.png", data: str = ""
) -> Path:
    """A finished run of a classifier that knows this share of the images."""
    folder.mkdir(parents=True)
    predicted = guess(share, seed)
    facts: dict[str, Any] = {"best_epoch": 1, "samples/train": 800}
    rows = []
    for split in ("val", "test"):
        facts |= {f"{split}/acc": (predicted == TRUE).mean(), f"{split}/f1": f1_score(TRUE, predicted, average="macro")}
        rows += [
            [split, files.format(i), NAMES[a], NAMES[b], *PROBABILITIES]
            for i, (a, b) in enumerate(zip(TRUE, predicted, strict=True))
        ]
    (folder / "summary.json").write_text(json.dumps(facts))
    settings = f"name: rate{lr}\nseed: {seed}\nepochs: 5\nrun_dir: {folder}\nlit_module: {{optimizer: {{lr: {lr}}}}}\n"
    settings += f"datamodule: {{{data}}}\n"
    (folder / "config.yaml").write_text(settings)
    with open(folder / "predictions.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    """A CSV's rows by their first column."""
    with open(path, newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def compared(runs: str | list[str], output: Path, wrong: str = "") -> dict[str, dict[str, dict[str, str]]]:
    """The tables of a comparison, which ends with a line about a folder of the name `wrong`, if any."""
    with pytest.raises(UserError, match=rf"/{wrong}: .*; leave it out$") if wrong else nullcontext():
        comparison_report.compare(runs, output)
    return {name: table(output / f"{name}.csv") for name in ("runs", "configs", "pairs")}


def test_seeds_are_averaged_and_differing_settings_named(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs" / f"a{seed}", 0.9, seed=seed)
    write_run(tmp_path / "runs" / "b", 0.2, lr=0.5, seed=7)
    found = compared(str(tmp_path / "runs" / "*"), tmp_path / "out")
    a, b = found["configs"]["A"], found["configs"]["B"]
    scores = [float(found["runs"][f"a{seed}"]["test/f1"]) for seed in range(3)]
    assert float(a["test/f1/mean"]) == pytest.approx(np.mean(scores))
    assert float(a["test/f1/std"]) == pytest.approx(np.std(scores, ddof=1))
    assert (a["runs"], b["runs"], b["test/f1/std"]) == ("3", "1", "")
    assert (a["lit_module.optimizer.lr"], b["lit_module.optimizer.lr"]) == ("0.1", "0.5")
    assert not {"seed", "run_dir", "epochs"} & a.keys()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| lit_module.optimizer.lr | 0.1000 | 0.5000 |" in report
    assert "| A (rate0.1) | 3 |" in report and "| B (rate0.5) | 1 |" in report
    assert (tmp_path / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_pair_is_tested_on_the_same_images_in_any_order(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "good", 0.9, seed=1), write_run(tmp_path / "bad", 0.6, seed=2)
    heading, *rows = (bad / "predictions.csv").read_text().splitlines()
    (bad / "predictions.csv").write_text("\n".join([heading, *reversed(rows)]))
    pair = compared([str(bad), str(good)], tmp_path / "out")["pairs"]["bad"]
    right, reference_right = guess(0.6, 2) == TRUE, guess(0.9, 1) == TRUE
    counts = int((right & ~reference_right).sum()), int((~right & reference_right).sum())
    assert pair["reference"] == "good" and pair["images"] == "200"
    assert (int(pair["only run right"]), int(pair["only reference right"])) == counts
    assert float(pair["acc/p (McNemar)"]) == significance.mcnemar(*counts) < 0.001
    assert float(pair["f1/difference/low"]) < float(pair["f1/difference"]) < float(pair["f1/difference/high"]) < 0
    assert float(pair["f1/p (bootstrap)"]) < 0.001


def test_runs_with_other_test_images_are_not_paired(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", 0.9), write_run(tmp_path / "runs" / "b", 0.8, files="q/{:03d}.png")
    pair = compared(str(tmp_path / "runs" / "*"), tmp_path / "out")["pairs"]["b"]
    assert pair["remark"] == "different test images: 400 occur in only one run"
    assert "acc/p (McNemar)" not in pair


def damage(run: Path, file: str, text: str | None) -> None:
    (run / file).unlink() if text is None else (run / file).write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "remark"),
    [
        ("config.yaml", None, "not a run: config.yaml is missing"),
        ("config.yaml", "a: [", "invalid: while parsing"),
        ("summary.json", '{"test/acc": 0.', "invalid: "),
        ("summary.json", "[1]", "invalid: "),
        ("summary.json", "[" * 100_000, "invalid: "),
        ("summary.json", '{"val/acc": 0.5, "test/acc": 0.5}', "invalid: val/acc of predictions.csv and summary.json"),
        ("summary.json", None, "unfinished: 0 of 5 epochs; resume it with run="),
        ("predictions.csv", None, "no predictions.csv, so no confidence intervals"),
        ("predictions.csv", "split,file,true\nval,a,cat\n", "invalid: 'predicted' is missing"),
        ("predictions.csv", "split,file,true,predicted\nval,a\n", "invalid: predictions.csv has an incomplete row"),
        (
            "predictions.csv",
            "split,file,true,predicted,p/cat\n" + "val,a,cat,cat,1\n" * 2,
            "invalid: predictions.csv lists an image twice",
        ),
        (
            "predictions.csv",
            "split,file,true,predicted,p/cat\nval,a,cat,dog,1\n",
            "invalid: predictions.csv has no column p/dog",
        ),
    ],
)
def test_a_run_that_is_not_whole_is_shown_with_the_reason(
    tmp_path: Path, file: str, text: str | None, remark: str
) -> None:
    write_run(tmp_path / "runs" / "good", 0.9)
    damage(write_run(tmp_path / "runs" / "bad", 0.9), file, text)
    (tmp_path / "runs" / "bad" / "checkpoints").mkdir()
    wrong = "bad" if remark.startswith(("not a run", "invalid")) else ""
    rows = compared(str(tmp_path / "runs" / "*"), tmp_path / "out", wrong)["runs"]
    assert rows["bad"]["remark"].startswith(remark)
    assert rows["bad"]["test/f1/low"] == ""
    assert rows["good"]["remark"] == "" and float(rows["good"]["test/f1/low"]) < float(rows["good"]["test/f1"])


def test_numbers_are_names(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        write_run(tmp_path / str(i), 0.9, seed=i)
    result = command("task=compare", "runs=[0,1,2]", "output=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(table(tmp_path / "out" / "runs.csv")) == ["0", "1", "2"]
    monkeypatch.chdir(tmp_path)
    assert comparison.find(2) == [Path("2")]


def test_no_run_and_no_place_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^runs: \S+/nothing\* matches no run; "):
        comparison_report.compare(f"{tmp_path}/nothing*", None)
    run = write_run(tmp_path / "run", 0.9)
    with pytest.raises(UserError, match=r"^output: cannot write to \S+/config.yaml/out "):
        comparison_report.compare([str(run)], run / "config.yaml" / "out")


def test_folder_that_is_no_run_is_named_after_the_table(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = write_run(tmp_path / "run", 0.9)
    (tmp_path / "other").mkdir()
    result = command("task=compare", f"runs=[{tmp_path / 'other'},{run}]", f"output={tmp_path / 'out'}")
    line = f"error: {tmp_path / 'other'}: not a run: config.yaml is missing; leave it out\n"
    assert (result.returncode, result.stderr) == (2, line)
    assert "test/acc" in result.stdout and sorted(table(tmp_path / "out" / "runs.csv")) == ["other", "run"]


def test_the_task_needs_neither_torch_nor_a_network(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = write_run(tmp_path / "run", 0.9)
    result = command("task=compare", f"runs=[{run}]", "output=null", cwd=tmp_path)
    assert result.returncode == 0 and "test/acc" in result.stdout, result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["run"], "nothing is written"
    code = (
        "import sys, lit_modules.runs.comparison, lit_modules.runs.comparison_report; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("argument", "line"), [("runss=1", "runss: no such key; did you mean 'runs'?"), ("", "runs: is")]
)
def test_a_wrong_key_of_the_task_is_answered_by_its_own_keys(
    command: Callable[..., subprocess.CompletedProcess[str]], argument: str, line: str
) -> None:
    result = command(*filter(None, ["task=compare", argument]))
    assert result.returncode == 2 and result.stderr.startswith(f"error: {line}")


def test_unfinished_run_with_edited_scores_is_invalid(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "good", 0.9)
    bad = write_run(tmp_path / "runs" / "bad", 0.9)
    damage(bad, "summary.json", None)
    damage(bad, "metrics.csv", "epoch;val/acc\n0;0,5\n")
    rows = compared(str(tmp_path / "runs" / "*"), tmp_path / "out", "bad")["runs"]
    assert rows["bad"]["remark"].startswith("invalid: ") and rows["good"]["remark"] == ""


def test_one_long_name_takes_no_memory_for_each_image(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    rows = [["test", str(i), "cat", "cat", *PROBABILITIES] for i in range(2000)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([HEADER, ["test", "x" * 100_000, "cat", "cat", *PROBABILITIES], *rows])
    tracemalloc.start()
    predictions = comparison._read_predictions(path)["test"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(predictions.files) == 2001 and peak < 10e6


def test_cross_validations_are_compared_fold_by_fold(tmp_path: Path) -> None:
    scores: dict[float, list[float]] = {0.1: [], 0.5: []}
    for lr in scores:
        for fold in range(4):
            folder = tmp_path / f"rate{lr}" / "folds" / f"{fold:03d}"
            place = {"files": f"{fold}/{{:03d}}.png", "data": f"folds: 4, fold: {fold}"}
            write_run(folder, 0.9 - lr / 10 - fold / 20, lr=lr, seed=fold + round(10 * lr), **place)  # type: ignore[arg-type]
            scores[lr].append(json.loads((folder / "summary.json").read_text())["test/f1"])
    (tmp_path / "rate0.1" / "config.yaml").write_text("folds: 4")
    output = tmp_path / "out"
    found = compared([str(tmp_path / "rate0.1"), str(tmp_path / "rate0.5")], output)
    assert (found["configs"]["A"]["runs"], found["configs"]["B"]["runs"]) == ("4", "4")
    b, a = (scores[lr] for lr in (0.5, 0.1)) if found["configs"]["A"]["name"] == "rate0.1" else scores.values()
    differences = np.subtract(b, a)
    (row,) = table(output / "splits.csv").values()
    test = significance.corrected_t(differences, 200 / 800)
    assert (row["config"], row["reference"], row["splits"]) == ("B", "A", "4")
    assert float(row["f1/difference"]) == pytest.approx(differences.mean())
    assert float(row["f1/p (corrected t)"]) == pytest.approx(test.p)
    assert "Corrected resampled t-test" in (output / "report.md").read_text()
    pairs = found["pairs"].values()
    assert len(pairs) == 4 and all(Path(row["run"]).name == Path(row["reference"]).name for row in pairs)


def test_learning_curve_is_drawn_over_the_number_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (fraction, share) in enumerate(((0.1, 0.5), (0.3, 0.7), ("null", 0.9))):
        for seed in range(2):
            run = write_run(tmp_path / "runs" / f"{number}{seed}", share, seed=seed, data=f"train_fraction: {fraction}")
            summary = json.loads((run / "summary.json").read_text())
            summary["samples/train"] = 800 if fraction == "null" else 800 * float(fraction)
            (run / "summary.json").write_text(json.dumps(summary))
    drawn: list[Any] = []
    monkeypatch.setattr(Axes, "errorbar", lambda _axes, *values, **_: drawn.append(values))
    found = compared(str(tmp_path / "runs" / "*"), tmp_path / "out")["configs"]
    samples, means, (below, above) = drawn[1]
    by_samples = sorted(found.values(), key=lambda row: float(row["samples/train"]))
    assert samples.tolist() == [80, 240, 800]
    assert means.tolist() == pytest.approx([float(row["test/f1/mean"]) for row in by_samples])
    spreads = [float(row["test/f1/std"]) for row in by_samples]
    assert below.tolist() == pytest.approx(spreads) and above.tolist() == pytest.approx(spreads)
    assert "learning_curve.png" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "learning_curve.png").is_file()


def test_keys_that_an_old_run_lacks_are_those_of_today(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "old", 0.9)
    write_run(tmp_path / "runs" / "new", 0.8, data="folds: null, fold: 0, train_fraction: null, relabel: null")
    assert list(compared(str(tmp_path / "runs" / "*"), tmp_path / "out")["configs"]) == ["A"]
