"""All tasks accept file names that are not valid UTF-8."""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import DRAWN, write_images

NAME = os.fsdecode(b"\xb0\xed.png")


def column(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [row["file"] for row in csv.DictReader(file)]


def test_every_task_accepts_a_name_that_is_not_utf_8(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = io.TextIOWrapper(io.BytesIO(), "utf-8")  # a strict one
    monkeypatch.setattr(sys, "stdout", console)
    data, out = tmp_path / "data", tmp_path / "out"
    for split, level in (("train", 60), ("val", 61), ("test", 62)):
        write_images(data / split / "dark", 4, level=level)
        write_images(data / split / "light", 4, level=level + 120)
    shutil.move(data / "test/dark/000.png", data / "test/dark" / NAME)
    shutil.copy(data / "test/dark" / NAME, data / "test/light" / NAME)  # one of the two is a mistake
    (data / "train/dark" / NAME).write_bytes(b"no image")

    choices = ("+experiment=from_scratch", *DRAWN, "lit_module.net.pool=2")
    source = (f"datamodule.root={data}", "datamodule.on_error=skip")
    folder = run(*choices, *source)
    assert column(folder / "predictions.csv")[-1] == f"test/light/{NAME}"
    assert "/\\udcb0\\udced.png` |" in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "report" / "mistakes.png").exists()

    run(f"run={folder}", "task=predict", f"input={data / 'test'}", f"output={out}")
    assert sorted(column(out / "predictions.csv")) == sorted(str(path) for path in (data / "test").rglob("*.png"))
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == column(out / "predictions.csv")
    with pytest.raises(SystemExit):  # it names what cannot be read
        run(f"run={folder}", "task=predict", f"input={data / 'train'}", f"output={tmp_path / 'more'}")
    assert (out / "contact_sheet.png").exists() and (tmp_path / "more" / "contact_sheet.png").exists()

    run(*choices, *source, "task=inspect", f"output={tmp_path / 'inspected'}")
    inspection = json.loads((tmp_path / "inspected" / "inspection.json").read_text(encoding="utf-8"))
    assert inspection["unreadable"] == [{"file": f"train/dark/{NAME}", "reason": "not an image that Pillow reads"}]
    console.flush()
    shown = console.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"train/dark/\\udcb0\\udced.png" in shown and b"test/light/\\udcb0\\udced.png" in shown

    run("task=compare", f"runs=[{folder}]", f"output={tmp_path / 'compared'}")
    with open(tmp_path / "compared" / "runs.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["remark"] == "" and row["test/f1/low"]
