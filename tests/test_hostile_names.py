"""Names of classes and files have no effect on the console, in reports and in tables, in any task."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conf.errors import UserError
from lit_modules.inference.temperature import temperature_of
from lit_modules.runs import comparison
from tests.conftest import DRAWN, Command
from tests.samples import module_of

CLASSES = ["![x](http:evil)", "=cmd|'C calc'!A0", "\x1b[2J", "<img src=x onerror=1>", "[bold]x", "'quoted", ":cat:"]
FILE = "-a\nb\r\u202e.png"
FORMULA = re.compile('(?m)(^|,)"?[=+@\t\r]|(^|,)"?-(?![0-9.])')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of random bits, so that some are mistaken; names begin with their class's folder."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in ["1.png", "2.png", "3.png", "4.png", FILE]:
            pixels = generator.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / file)
    return tmp_path / "data"


def printed(result: object) -> str:
    """What a command printed, which a terminal would show as it stands."""
    text: str = result.stdout + result.stderr  # type: ignore[attr-defined]
    assert text.replace("\n", "").isprintable()
    return text


def test_names_have_no_effect_in_any_task(command: Command, data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    choices = ("datamodule=image_folder", f"datamodule.root={data}", "datamodule.image_size=8", "seed=1")
    small = (*DRAWN, "lit_module.net.pool=2", "callbacks=[default,projector]")
    result = command(*choices, *small, f"run_dir={run}", "name='_x_'")
    assert result.returncode == 0, result.stderr
    printed(result)

    report = (run / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# `_x_`: test accuracy ")
    assert "`![x](http:evil)`" in report and "| [bold]x |" in report and "`\\x1b[2J`" in report
    assert not re.search(r"<img|!\[x\]", re.sub("(`+).+?\\1", "", report))

    for name in ("predictions.csv", "confusion.csv"):
        content = (run / name).read_text(encoding="utf-8")
        assert not FORMULA.search(content) and "\x1b" not in content and "\r" not in content
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        assert {row["true"] for row in csv.DictReader(file)} >= {"'=cmd|'C calc'!A0", "''quoted", "[bold]x"}
    read = comparison.read(run, "run")
    assert not read.remark and set(read.predictions["test"].true) == {name.replace("\x1b", "\\x1b") for name in CLASSES}
    name = FILE.replace("\r", "\\r")
    assert any(file.endswith(f"/{name}") for split in read.predictions.values() for file in split.files)
    with pytest.raises(UserError, match="determine no temperature"):  # but the classes are found
        temperature_of(run)

    events = EventAccumulator(str(run), {"tensors": 0}).Reload()
    assert all(tag.isprintable() for kind in ("scalars", "images", "tensors") for tag in events.Tags()[kind])
    labels = next(run.rglob("metadata.tsv")).read_text(encoding="utf-8").splitlines()
    assert len(labels) == len(read.predictions["test"].files) and all(map(str.isprintable, labels))

    printed(command(f"run={run}", "task=test"))
    (tmp_path / "new").mkdir()
    (data / CLASSES[2] / FILE).rename(tmp_path / "new" / FILE)
    (tmp_path / "new" / "\x1b[31m.png").write_bytes(b"no image")
    result = command(f"run={run}", "task=predict", f"input={tmp_path / 'new'}", f"output={out}")
    assert (
        "-a\\nb\\r\\u202e.png: " in printed(result) and "skipped " in result.stderr and "\\x1b[31m.png" in result.stderr
    )
    (line,) = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["file"].endswith(FILE) and json.loads(line)["predicted"] in CLASSES
    assert not FORMULA.search((out / "predictions.csv").read_text(encoding="utf-8"))

    result = command(*choices, "task=inspect", f"output={tmp_path / 'inspected'}")
    shown = printed(result)
    assert "[bold]x" in shown and "\\x1b[2J" in shown and ":cat:" in shown
    printed(command("task=compare", f"runs=[{run}]", f"output={tmp_path / 'compared'}"))


def test_error_lines_show_control_characters(command: Command, data: Path) -> None:
    (data / CLASSES[2] / FILE).write_bytes(b"no image")
    result = command("datamodule=image_folder", f"datamodule.root={data}")
    assert result.returncode == 2 and result.stderr.startswith("error: \\x1b[2J/-a\\nb\\r\\u202e.png (not an image")
    assert result.stderr.count("\n") == 1 and result.stderr.rstrip("\n").isprintable()


def test_warnings_show_control_characters(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in CLASSES:  # one of them is in another split
        (data / name / "1.png").write_bytes((data / CLASSES[2] / "1.png").read_bytes())
        (data / name / FILE).write_bytes(b"no image")
    module_of(data, on_error="skip").setup("fit")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 1 and all(map(str.isprintable, lines)) and "\\x1b[2J/-a\\nb" in lines[0]
