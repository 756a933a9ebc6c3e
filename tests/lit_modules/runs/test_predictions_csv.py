"""predictions.csv and confusion.csv give back what was predicted, whatever files and classes are called."""

import csv
import os
from pathlib import Path

import numpy as np

from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.runs.predictions_csv import write_confusion, write_predictions
from tests.samples import evaluation


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_probabilities_are_read_back_to_the_last_bit(tmp_path: Path) -> None:
    found = evaluation(10)
    write_predictions(tmp_path / "predictions.csv", {"val": found, "test": found})
    rows = rows_of(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["split", "file", "true", "predicted", *(f"p/class {i}" for i in range(10))]
    assert [row["split"] for row in rows] == ["val"] * 400 + ["test"] * 400
    read = np.array([[np.float32(row[f"p/class {i}"]) for i in range(10)] for row in rows[400:]])
    np.testing.assert_array_equal(read, found.predictions.probabilities)
    assert rows[3]["file"] == "3.png" and rows[3]["true"] == f"class {found.predictions.true[3]}"


def test_a_part_of_a_split_keeps_its_own_files(tmp_path: Path) -> None:
    found = evaluation(3)
    part = found.predictions._replace(index=found.predictions.index * 2)
    every = Evaluation(found.class_names, [f"{i}.png" for i in range(800)], part, found.mistaken_inputs)
    write_predictions(tmp_path / "predictions.csv", {"test": every})
    assert [row["file"] for row in rows_of(tmp_path / "predictions.csv")][:3] == ["0.png", "2.png", "4.png"]


def test_confusion_is_that_of_the_predictions(tmp_path: Path) -> None:
    found = evaluation(4, absent=(2,))
    write_confusion(tmp_path / "confusion.csv", {"test": found})
    rows = rows_of(tmp_path / "confusion.csv")
    counts = [[int(row[name]) for name in found.class_names] for row in rows]
    np.testing.assert_array_equal(counts, found.confusion)
    assert [(row["split"], row["true"]) for row in rows] == [("test", name) for name in found.class_names]


def test_any_name_of_a_file_or_class_is_kept(tmp_path: Path) -> None:
    found = evaluation(3)
    files = ['with "quotes", and commas.png', "line\nbreak.png", os.fsdecode(b"not utf-8 \xff.png"), "한글.png"] * 100
    names = ["a,b", 'c"d', "한글"]
    write_predictions(
        tmp_path / "predictions.csv", {"test": Evaluation(names, files, found.predictions, found.mistaken_inputs)}
    )
    rows = rows_of(tmp_path / "predictions.csv")
    assert [row["file"] for row in rows] == files
    assert [row["true"] for row in rows] == [names[label] for label in found.predictions.true]


def test_header_holds_no_code_of_a_terminal_and_no_formula(tmp_path: Path) -> None:
    found = evaluation(3)
    names = ["\x1b[31mred", "a;=1+1", "b"]
    renamed = Evaluation(names, found.files, found.predictions, found.mistaken_inputs)
    write_predictions(tmp_path / "predictions.csv", {"val": renamed})
    rows = rows_of(tmp_path / "predictions.csv")
    assert list(rows[0])[4:] == [r"p/\x1b[31mred", "p/a;'=1+1", "p/b"]
    assert {row["true"] for row in rows} == {r"\x1b[31mred", "a;'=1+1", "b"}
