"""A run's folder: lock, checkpoints, metrics and summary."""

import csv
import errno
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conf.errors import UserError
from lit_modules.runs import run_folder
from tests.conftest import ROOT, configure
from tests.saved_runs import CHOICES, composed, plain, save


def checkpoint_in(folder: Path, name: str, content: object = None) -> Path:
    path = folder / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"class_names": ["a", "b"]} if content is None else content, path)
    return path


def test_claim_saves_interpolations_and_no_run_key(tmp_path: Path) -> None:
    cfg = save(tmp_path, *CHOICES)
    cfg.run = str(tmp_path)
    with run_folder.claim(tmp_path, cfg):
        saved = plain(OmegaConf.load(tmp_path / "config.yaml"))
    assert saved["run"] is None
    assert saved["callbacks"]["checkpoint"]["dirpath"] == "${run_dir}/checkpoints"


@pytest.mark.parametrize("sign", ["metrics.csv", "checkpoints/epoch=000.ckpt", "trials/000.log"])
def test_claiming_a_folder_that_holds_a_run_is_refused(tmp_path: Path, sign: str) -> None:
    cfg = save(tmp_path, "name=first")
    (tmp_path / sign).parent.mkdir(exist_ok=True)
    (tmp_path / sign).touch()
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=f"^run_dir: {tmp_path} already contains a run; resume it with run={tmp_path}"):
        save(tmp_path, "name=second")
    assert (tmp_path / "config.yaml").read_bytes() == before
    cfg.run, cfg.trainer.max_epochs = str(tmp_path), 99
    with run_folder.claim(tmp_path, cfg):
        assert OmegaConf.load(tmp_path / "config.yaml").trainer.max_epochs == 99


def test_a_run_that_was_killed_before_its_first_checkpoint_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, "name=first")
    (tmp_path / "checkpoints").mkdir()
    save(tmp_path, "name=second")
    assert "name: second" in (tmp_path / "config.yaml").read_text()


def test_new_folder_of_a_refused_run_keeps_files_of_others(tmp_path: Path) -> None:
    for files in ([], ["thesis.tex"]):
        cfg = configure(f"run_dir={tmp_path / 'run'}")
        with pytest.raises(UserError), run_folder.claim(tmp_path / "run", cfg):
            for name in ("events.out.tfevents.1", "metrics.csv", *files):
                (tmp_path / "run" / name).touch()
            raise UserError("key: problem; fix")
        assert [path.name for path in tmp_path.glob("run/*")] == files
    assert (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    cfg = configure(f"run_dir={tmp_path}", f"run={save(tmp_path).run_dir}")
    with run_folder.claim(tmp_path, cfg):
        in_use = f"^run_dir: {tmp_path} is in use by process {os.getpid()} on "
        with pytest.raises(UserError, match=in_use), run_folder.claim(tmp_path, cfg):
            pytest.fail("two processes hold the folder")
        assert (tmp_path / "config.yaml").exists()
    with run_folder.claim(tmp_path, cfg):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"], "no lock is left"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=f"^run_dir: cannot write to {folder} "):
        save(folder)


def test_a_new_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    with pytest.raises(UserError, match=r"^refused$"), run_folder.claim(folder, composed()):
        raise UserError("refused")
    assert not folder.exists()


def test_rejected_run_with_a_checkpoint_keeps_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError), run_folder.claim(folder, composed()):
        checkpoint_in(folder, "epoch=000.ckpt")
        raise UserError("refused")
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "config.yaml"]


def test_a_crash_keeps_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), run_folder.claim(tmp_path / "run", composed()):
        raise RuntimeError("ours")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_a_refused_run_removes_nothing_that_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"^refused$"), run_folder.claim(tmp_path, composed()):
        raise UserError("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_resumed_run_that_is_refused_keeps_its_config(tmp_path: Path) -> None:
    cfg = save(tmp_path)
    checkpoint_in(tmp_path, "epoch=000.ckpt")
    before = (tmp_path / "config.yaml").read_bytes()
    cfg.run, cfg.trainer.max_epochs = str(tmp_path), 99
    with pytest.raises(UserError, match=r"^refused$"), run_folder.claim(tmp_path, cfg):
        raise UserError("refused")
    assert (tmp_path / "config.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.yaml"]


@pytest.mark.parametrize("error", [UserError("a: b; c"), OSError(errno.ENOSPC, "No space left")])
def test_what_is_refused_before_a_checkpoint_leaves_no_folder(tmp_path: Path, error: Exception) -> None:
    cfg = configure("+experiment=digits")
    with pytest.raises(type(error)), run_folder.claim(tmp_path / "logs" / "run", cfg):
        raise error
    assert list(tmp_path.iterdir()) == []
    with run_folder.claim(tmp_path / "run", cfg):
        pass
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    cfg.run, cfg.epochs = str(tmp_path / "run"), 7
    with pytest.raises(type(error)), run_folder.claim(tmp_path / "run", cfg):
        raise error
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("is_resumed", "line"), [(True, "run: .*; copy the folder, then run=COPY$"), (False, "run_dir: .*; choose")]
)
def test_run_on_a_read_only_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resumed: bool, line: str
) -> None:
    cfg = save(tmp_path)
    cfg.run = str(tmp_path) if is_resumed else None

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_folder, "file_lock", refuse)
    with pytest.raises(UserError, match=f"^{line}"), run_folder.claim(tmp_path, cfg):
        pytest.fail("it cannot be written")


def test_scores_are_those_of_the_epochs_row(tmp_path: Path) -> None:
    rows = [
        {"epoch": "0", "lr": "0.1", "train/loss": "2.5", "val/f1": "0.25", "seconds": "1"},
        {"epoch": "1", "lr": "0.1", "train/loss": "1.5", "val/f1": "", "seconds": "1"},
    ]
    with open(tmp_path / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    first, second = run_folder.read_metrics(tmp_path)
    assert first == {"epoch": 0, "lr": 0.1, "train/loss": 2.5, "val/f1": 0.25, "seconds": 1}
    assert second == {"epoch": 1, "lr": 0.1, "train/loss": 1.5, "seconds": 1}, "it was not validated"


@pytest.mark.parametrize(
    "text",
    [
        "epoch;train/loss\n0;0,5\n",
        "epoch,train/loss\ninf,0.5\n",
        "epoch,train/loss\nfirst,0.5\n",
        'epoch,train/loss\n0,"0,5"\n',
        "epoch,train/loss\n0,1,2\n",
        'epoch,"train/loss\n',
        "epoch\nÿ",
    ],
)
def test_scores_that_another_program_changed_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"metrics.csv: is malformed; restore it from a backup"):
        run_folder.read_metrics(tmp_path)


def test_the_summary_holds_facts_versions_and_the_commit(tmp_path: Path) -> None:
    run_folder.write_summary(tmp_path, {"test/f1": 0.5, "name": "mine"})
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["test/f1"] == 0.5 and summary["name"] == "mine"
    assert summary["version/torch"] == version("torch") == torch.__version__.partition("+")[0]
    assert summary["version/pytorch-lightning"] == version("pytorch-lightning")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert summary["git_commit"] == (head.stdout.strip() or None)


def test_the_summary_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run_folder.write_summary(tmp_path, {})
    assert json.loads((tmp_path / "summary.json").read_text())["git_commit"] is None
