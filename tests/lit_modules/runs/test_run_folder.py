"""A run's folder can be taken up by its path alone, belongs to one process, and is never left half written."""

import csv
import errno
import json
import os
import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from conf import saved_config, validation
from conf.errors import UserError
from lit_modules.runs import run_folder
from tests.conftest import ROOT, configure

CHOICES = (
    "seed=3",
    "name=mine",
    "datamodule/augment=[crop]",
    "datamodule.augment.crop.padding=1",
    "lit_module/optimizer=sgd",
    "lit_module.optimizer.lr=0.25",
    "lit_module/scheduler=cosine",
    "trainer.max_epochs=7",
    "devices=cpu",
    "callbacks=[default,ema]",
    "callbacks.progress_bar=null",
)


@cache
def composed(*overrides: str) -> DictConfig:
    return configure(*overrides)


def save(folder: Path, *overrides: str) -> DictConfig:
    """Writes the config.yaml of a run, and returns the config."""
    cfg = composed(*overrides).copy()
    cfg.run_dir = str(folder)
    with run_folder.claim(folder, cfg):
        pass
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(cfg)
    assert isinstance(found, dict)
    return found


def checkpoint_in(folder: Path, name: str, content: object = None) -> Path:
    path = folder / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"class_names": ["a", "b"]} if content is None else content, path)
    return path


@pytest.mark.parametrize("name", ["run", "with space", "a=b", "한글"])
def test_a_saved_run_gives_back_its_config(tmp_path: Path, name: str) -> None:
    saved = plain(save(tmp_path / name, *CHOICES))
    again = plain(configure(f"run='{tmp_path / name}'"))
    assert again == saved | {"run": str(tmp_path / name)}


def test_a_folder_that_was_moved_gives_its_new_place(tmp_path: Path) -> None:
    save(tmp_path / "old", *CHOICES)
    (tmp_path / "old").rename(tmp_path / "new")
    cfg = configure(f"run={tmp_path / 'new'}")
    assert cfg.run_dir == str(tmp_path / "new")
    assert cfg.callbacks.checkpoint.dirpath == str(tmp_path / "new" / "checkpoints")


def test_values_are_overridden_on_top_of_a_saved_run(tmp_path: Path) -> None:
    save(tmp_path, *CHOICES)
    cfg = configure(f"run={tmp_path}", "trainer.max_epochs=9", "lit_module.optimizer.lr=0.5")
    assert cfg.trainer.max_epochs == 9 and cfg.lit_module.optimizer.lr == 0.5
    assert cfg.lit_module.optimizer._target_ == "torch.optim.SGD", "the rest is as it was saved"


def test_interpolations_of_a_saved_run_follow_its_overrides(tmp_path: Path) -> None:
    save(tmp_path, *CHOICES)
    cfg = configure(f"run={tmp_path}", "trainer.max_epochs=9", "monitor=val/acc")
    assert cfg.lit_module.scheduler.T_max == 9 and cfg.logger.epoch_csv.max_epochs == 9
    assert cfg.callbacks.checkpoint.monitor == "val/acc"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer=debug", "trainer.limit_train_batches", 1),
        ("devices=gpu", "trainer.accelerator", "gpu"),
        ("lit_module=classifier", "lit_module.optimizer._target_", "torch.optim.AdamW"),
        ("datamodule=digits", "datamodule.augment", {}),
        ("callbacks=[saved,early_stopping]", "callbacks.early_stopping.patience", 10),
        ("logger=[tensorboard]", "logger.tensorboard.save_dir", "${run_dir}"),
    ],
)
def test_groups_are_overridden_on_top_of_a_saved_run(tmp_path: Path, override: str, key: str, value: object) -> None:
    save(tmp_path, *CHOICES)
    cfg = configure(f"run={tmp_path}", override)
    validation.check(cfg)
    found: Any = plain(cfg)
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert cfg.name == "mine" and cfg.seed == 3, "the rest is as it was saved"


def test_a_group_on_top_of_a_saved_run_replaces_its_section(tmp_path: Path) -> None:
    save(tmp_path, *CHOICES)
    cfg = configure(f"run={tmp_path}", "callbacks=[early_stopping]", "lit_module=classifier")
    assert list(cfg.callbacks) == ["early_stopping"]
    assert "momentum" not in cfg.lit_module.optimizer


def test_an_experiment_works_on_top_of_a_saved_run(tmp_path: Path) -> None:
    save(tmp_path, *CHOICES)
    cfg = configure(f"run={tmp_path}", "+experiment=digits")
    validation.check(cfg)
    wanted = configure("+experiment=digits", "seed=3")
    assert cfg.datamodule == wanted.datamodule and cfg.name == "digits"
    assert cfg.epochs == wanted.epochs
    assert cfg.lit_module.optimizer.momentum == 0.9, "what the experiment does not name is as it was saved"


def test_its_own_experiment_changes_nothing_in_a_saved_run(tmp_path: Path) -> None:
    saved = plain(save(tmp_path, "+experiment=digits"))
    assert plain(configure(f"run={tmp_path}", "+experiment=digits")) == saved | {"run": str(tmp_path)}


def test_a_saved_run_can_be_tested(tmp_path: Path) -> None:
    saved = plain(save(tmp_path, *CHOICES))
    cfg = configure(f"run={tmp_path}", "task=test")
    validation.check(cfg)
    assert plain(cfg) == saved | {"run": str(tmp_path), "task": "test"}


@pytest.mark.parametrize("arguments", [[], ["seed=1"], ["run="], ["run=null"], ["rune=x"], ["run_dir=x"]])
def test_without_a_run_the_base_is_train(arguments: list[str]) -> None:
    assert saved_config.base_config(arguments) == "train"


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_config_is_no_run(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    with pytest.raises(UserError, match=f"^run: {folder} holds no config.yaml; "):
        saved_config.base_config([f"run={folder}"])


@pytest.mark.parametrize("text", ["- a list", "name: [1", "\tname: x"])
def test_a_saved_config_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        saved_config.base_config([f"run={tmp_path}"])


def test_the_last_run_named_counts(tmp_path: Path) -> None:
    save(tmp_path / "b", "name=b")
    assert configure(f"run={tmp_path / 'a'}", f"run={tmp_path / 'b'}").name == "b"


def test_claiming_keeps_interpolations_and_forgets_that_it_was_a_resumption(tmp_path: Path) -> None:
    cfg = save(tmp_path, *CHOICES)
    cfg.run = str(tmp_path)
    with run_folder.claim(tmp_path, cfg):
        saved = plain(OmegaConf.load(tmp_path / "config.yaml"))
    assert saved["run"] is None
    assert saved["callbacks"]["checkpoint"]["dirpath"] == "${run_dir}/checkpoints"


def test_claiming_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    cfg = save(tmp_path, "name=first")
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=f"^run_dir: {tmp_path} already contains a run; resume it with run={tmp_path}"):
        save(tmp_path, "name=second")
    assert (tmp_path / "config.yaml").read_bytes() == before
    cfg.run, cfg.trainer.max_epochs = str(tmp_path), 99
    with run_folder.claim(tmp_path, cfg):
        assert OmegaConf.load(tmp_path / "config.yaml").trainer.max_epochs == 99


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


def test_a_run_with_a_checkpoint_keeps_its_folder_when_it_is_refused(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_epochs=99",
        "datamodule.num_workers=2",
        "callbacks=[default,ema,early_stopping]",
        "name=other",
        "lit_module.optimizer.lr=0.25",
    ],
)
def test_a_resumed_run_may_change_what_leaves_its_weights_alone(tmp_path: Path, override: str) -> None:
    save(tmp_path, *CHOICES)
    saved_config.check_unchanged(tmp_path, configure(f"run={tmp_path}", override))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=4", "seed: this run has 3, not 4"),
        ("lit_module.optimizer.lr=0.5", "lit_module.optimizer.lr: this run has 0.25, not 0.5"),
        ("datamodule.augment.crop.padding=2", "datamodule.augment.crop.padding: this run has 1, not 2"),
        ("datamodule.batch_size=1", "datamodule.batch_size: this run has 64, not 1"),
        ("+datamodule.augment.flip.p=1", "datamodule.augment.flip.p: this run has None, not 1"),
    ],
)
def test_a_resumed_run_may_not_change_what_decides_its_weights(tmp_path: Path, override: str, line: str) -> None:
    save(tmp_path, *CHOICES)
    with pytest.raises(UserError) as caught:
        saved_config.check_unchanged(tmp_path, configure(f"run={tmp_path}", override))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("callback", ["ema", "adam_to_sgd"])
def test_a_resumed_run_keeps_the_callbacks_that_decide_its_weights(tmp_path: Path, callback: str) -> None:
    save(tmp_path, f"callbacks=[default,{callback}]")
    saved_config.check_unchanged(tmp_path, configure(f"run={tmp_path}"))
    with pytest.raises(UserError, match=rf"^callbacks\.{callback}\._target_: this run has "):
        saved_config.check_unchanged(tmp_path, configure(f"run={tmp_path}", "callbacks=[default]"))


@pytest.mark.parametrize(
    "foreign", ["hydra: {job: {env_set: {PATH: /tmp/evil}}}", "defaults: [/datamodule/cifar10]", "anything: 1"]
)
def test_a_saved_config_says_nothing_but_what_a_run_saves(tmp_path: Path, foreign: str) -> None:
    save(tmp_path)
    with open(tmp_path / "config.yaml", "a") as file:
        file.write(f"{foreign}\n")
    with pytest.raises(UserError, match=rf"config\.yaml: holds {foreign.partition(':')[0]}, which no run saves"):
        configure(f"run={tmp_path}")


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


@pytest.mark.parametrize("section", ["trainer", "logger"])
def test_a_saved_section_names_no_others(tmp_path: Path, section: str) -> None:
    save(tmp_path)
    saved = OmegaConf.load(tmp_path / "config.yaml")
    saved[section].defaults = [{"/logger@_global_.hydra.job": "saved"}]
    OmegaConf.save(saved, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=rf"config\.yaml: holds {section}\.defaults, which no run saves"):
        configure(f"run={tmp_path}")


@pytest.mark.parametrize("content", [b"name: \xb0\xed", b"just a word", b"- a list", b"{"])
def test_a_damaged_saved_config_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml: (is corrupt|is not a mapping|holds )"):
        configure(f"run={tmp_path}")


def test_the_newest_readable_checkpoint_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = checkpoint_in(tmp_path, "epoch=001.ckpt"), checkpoint_in(tmp_path, "epoch=002.ckpt")
    assert run_folder.newest_checkpoint(tmp_path) == new
    last = checkpoint_in(tmp_path, "last.ckpt")
    assert run_folder.newest_checkpoint(tmp_path) == last
    assert capsys.readouterr().err == ""
    last.write_bytes(last.read_bytes()[:100])
    new.write_bytes(b"")
    assert run_folder.newest_checkpoint(tmp_path) == old
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"skipped {path}: is damaged or no checkpoint" for path in (last, new)]


def test_a_run_without_checkpoints_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^run: {tmp_path} has no readable checkpoint; "):
        run_folder.newest_checkpoint(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path / 'checkpoints' / 'best.ckpt'}: does not exist; "):
        run_folder.best_checkpoint(tmp_path)


def test_the_best_epoch_is_that_of_the_file_behind_the_link(tmp_path: Path) -> None:
    file = checkpoint_in(tmp_path, "epoch=007.ckpt", {"class_names": [], "epoch": 7})
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.symlink_to(file.name)
    assert run_folder.best_checkpoint(tmp_path) == best
    assert run_folder.best_epoch(tmp_path) == 7
    best.unlink()
    shutil.copy(file, best)  # as a copy of the folder has it where links are followed
    assert run_folder.best_epoch(tmp_path) == 7


class Evil:
    """What it does when it is unpickled: makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    path = checkpoint_in(tmp_path, "last.ckpt", {"class_names": Evil(tmp_path / "made")})
    assert run_folder.why_unreadable(path) == "contains code, which is not executed"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(2)])
def test_a_checkpoint_of_another_program_is_told_apart(tmp_path: Path, content: object) -> None:
    assert run_folder.why_unreadable(checkpoint_in(tmp_path, "last.ckpt", content)) == "was not written by Litmus"


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
