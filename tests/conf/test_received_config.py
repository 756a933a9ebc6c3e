"""A saved config from a stranger reads, writes and starts nothing of its sender's choice."""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning.callbacks
import pytorch_lightning.loggers
import pytorch_lightning.profilers
import pytorch_lightning.strategies
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import received_config, saved_config, validation
from conf.errors import UserError
from tests.conftest import configure
from tests.saved_runs import composed, save, saved_default

EVIL = "/tmp/evil"
CSV = "pytorch_lightning.loggers.CSVLogger"
# A key of a received config, its value, and words of the error line.
HOSTILE: list[tuple[str, Any, str]] = [
    ("name", "${oc.env:HOME}", r"name is \$\{oc\.env:HOME\}; a run's folder may not decide that"),
    ("seed", "${oc.decode:${oc.env:HOME}}", "seed is "),
    ("lit_module.net.dropout", "${oc.decode:${monitor}${mode}}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${oc.decode:${monitor}}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${a.${monitor}}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${oc.select:seed}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${${name}:HOME}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${hydra:runtime.cwd}", "lit_module.net.dropout is "),
    ("trainer.precision", "\\${oc.env:HOME}", "trainer.precision is "),
    ("lit_module.net.dropout", "${seed}${seed}", "lit_module.net.dropout is "),
    ("lit_module.net.dropout", "${datamodule}", "lit_module.net.dropout is "),
    ("logger.epoch_csv.save_dir", "${name}", r"logger\.epoch_csv\.save_dir is "),
    ("logger", None, "logger is None, which no run saves"),
    ("lit_module", 5, "lit_module is 5, which no run saves"),
    ("init_from", "private.ckpt", "init_from is private.ckpt; "),
    ("lit_module.net.weights", "private.pt", r"lit_module\.net\.weights is "),
    ("input", EVIL, "holds input, which no run saves"),
    ("output", EVIL, "holds output, which no run saves"),
    ("runs", [EVIL], "holds runs, which no run saves"),
    ("storage", f"sqlite:///{EVIL}.db", "holds storage, which no run saves"),
    ("hydra", {"job": {"env_set": {"PATH": EVIL}}}, "holds hydra, which no run saves"),
    ("lit_module.net.x", {"defaults": ["/experiment/digits"]}, r"holds lit_module\.net\.x\.defaults, which"),
    ("init_from", f"{EVIL}/model.pt", "init_from is /tmp/evil/model.pt; .*: add init_from=… to the command"),
    ("lit_module.net.weights", f"{EVIL}/model.pt", r"lit_module\.net\.weights is "),
    ("lit_module.net.weights", "../model.pt", r"lit_module\.net\.weights is "),
    ("lit_module.net.name", "hf-hub:somebody/network", r"lit_module\.net\.name is "),
    ("datamodule.root", "s3://evil/images", r"datamodule\.root is s3://evil/images; "),
    ("callbacks.checkpoint.weights_file", "thesis.tex", r"callbacks\.checkpoint\.weights_file is thesis\.tex; "),
    ("callbacks.checkpoint.dirpath", EVIL, r"callbacks\.checkpoint\.dirpath is "),
    ("callbacks.checkpoint.dirpath", "${run_dir}/../other", r"dirpath is \$\{run_dir\}/\.\./other; "),
    ("callbacks.checkpoint.dirpath", "${datamodule.columns.path}", r"callbacks\.checkpoint\.dirpath is "),
    ("callbacks.checkpoint.filename", "${logs_dir}/${name}", r"callbacks\.checkpoint\.filename is "),
    ("callbacks.mid_epoch_checkpoint.file", ["${run_dir}", EVIL], r"callbacks\.mid_epoch_checkpoint\.file is "),
    ("callbacks.mid_epoch_checkpoint.file", True, r"callbacks\.mid_epoch_checkpoint\.file is True; "),
    ("logger.epoch_csv.save_dir", "~", r"logger\.epoch_csv\.save_dir is ~; "),
    ("logger.tensorboard.save_dir", "${datamodule.columns.path}", r"logger\.tensorboard\.save_dir is "),
    ("logger.w", {"_target_": "pytorch_lightning.loggers.WandbLogger"}, r"logger\.w may send .* logger\.w\._target_="),
    ("logger.m", {"_target_": "pytorch_lightning.loggers.mlflow.MLFlowLogger"}, r"logger\.m may send "),
    ("callbacks.other", {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint"}, r"callbacks\.other\._target_ is "),
    ("logger.csv", {"_target_": CSV, "save_dir": "${run_dir}", "name": "${datamodule.root}"}, r"logger\.csv\.name is "),
    ("lit_module.net.dropout", "${init_from}", r"lit_module\.net\.dropout is "),
    ("trainer.default_root_dir", ".", r"trainer\.default_root_dir is "),
    ("trainer.profiler", {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": EVIL}, "dirpath is "),
    ("trainer.profiler", {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "filename": f"{EVIL}"}, "filename"),
]  # fmt: skip


def receive(folder: Path, key: str, value: Any) -> None:
    """A run's folder whose sender has set one key."""
    cfg = OmegaConf.create(saved_default() | {"run_dir": str(folder)})
    cfg.datamodule.update({"columns": {"path": EVIL}, "root": "photos"})
    OmegaConf.update(cfg, key, value, force_add=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))


@pytest.mark.parametrize(("key", "value", "line"), HOSTILE, ids=[f"{n}-{row[0]}" for n, row in enumerate(HOSTILE)])
def test_received_config_decides_nothing_beyond_its_place(tmp_path: Path, key: str, value: Any, line: str) -> None:
    receive(tmp_path, key, value)
    with pytest.raises(UserError, match=rf"config\.yaml: .*{line}"):
        saved_config.base_config([f"run={tmp_path}"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_from", f"{EVIL}/model.pt"),
        ("datamodule.root", "s3://evil/images"),
        ("callbacks.checkpoint.weights_file", "thesis.tex"),
        ("name", "${oc.env:HOME}"),
    ],
)
def test_user_may_type_what_a_received_config_may_not_say(tmp_path: Path, key: str, value: str) -> None:
    receive(tmp_path, key, value)
    assert OmegaConf.select(configure(f"run={tmp_path}", f"++{key}=mine"), key) == "mine"


def test_paths_that_are_read_at_the_start_stay_in_a_run_with_checkpoints(tmp_path: Path) -> None:
    receive(tmp_path, "init_from", "a/model.pt")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert configure(f"run={tmp_path}").init_from == "a/model.pt"


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("logs_dir", EVIL, "logs"),
        ("datamodule.cache_dir", EVIL, os.environ.get("LITMUS_CACHE", "~/.cache/litmus")),
        ("datamodule.download", True, False),
    ],
)
def test_places_of_the_machine_are_not_taken_from_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, default: Any
) -> None:
    monkeypatch.delenv("LITMUS_CACHE", raising=False)
    receive(tmp_path, key, value)
    assert OmegaConf.select(configure(f"run={tmp_path}"), key) == (
        "~/.cache/litmus" if key.endswith("cache_dir") else default
    )
    assert OmegaConf.select(configure(f"run={tmp_path}", f"{key}=mine"), key) == "mine"


def test_defaults_of_the_machine_are_those_of_the_config_files() -> None:
    files = {
        "logs_dir": ("train.yaml", "logs_dir"),
        "datamodule.cache_dir": ("datamodule/images.yaml", "cache_dir"),
        "datamodule.download": ("datamodule/torchvision.yaml", "download"),
    }
    for key, (file, name) in files.items():
        saved = OmegaConf.to_container(OmegaConf.load(received_config.CONF / file))
        assert isinstance(saved, dict) and saved[name] == received_config.MACHINE[key]


LEVELS = "a: " + "{a: " * 300 + "1" + "}" * 300
BOMB = "a: &a [x, x, x]\n" + "".join(f"{name}: &{name} [{', '.join([f'*{prior}'] * 9)}]\n" for prior, name in
                                     zip("abcdefghi", "bcdefghij", strict=True))  # fmt: skip


@pytest.mark.parametrize("text", [LEVELS, BOMB, "name: x\n" * 200_000], ids=["levels", "aliases", "size"])
def test_config_that_would_expand_without_end_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: .*, which no run saves; "):
        configure(f"run={tmp_path}")


def test_run_of_a_too_long_name_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^run: x{5000} holds no config\.yaml; "):
        configure(f"run={'x' * 5000}")


OVERRIDES = [
    "+hydra.job.env_set.PATH=/tmp/evil", "hydra/launcher=basic", "hydra.searchpath=[/tmp/evil]", "--config-dir=/tmp",
    "-m", "run=/tmp/evil", "run_dir=/tmp/evil", "task=export", "input=/tmp/evil", "+experiment=../../tmp/evil",
    "+experiment=/tmp/evil", "experiment@hydra=digits", "callbacks.checkpoint.weights_file=thesis.tex", "a b",
    "+logger.x._target_=pytorch_lightning.loggers.WandbLogger", "init_from=model/a.pt", "name=${oc.env:HOME}",
    "datamodule.cache_dir=/tmp/evil", "datamodule.download=true", "logger=[default,mlflow]",
    "datamodule.root=s3://evil/x", "++trainer.profiler.filename=${datamodule.root}", "x=1",
]  # fmt: skip


def receive_study(folder: Path, overrides: list[str], space: dict[str, Any]) -> None:
    cfg = composed("+experiment=digits", "+sweep=grid", "+space={seed:[0]}").copy()
    OmegaConf.set_struct(cfg, False)
    cfg.overrides, cfg.space = overrides, space
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))


@pytest.mark.parametrize("override", OVERRIDES)
def test_received_study_gives_no_word_beyond_settings_to_its_trials(tmp_path: Path, override: str) -> None:
    receive_study(tmp_path, ["+experiment=digits", override], {"seed": [0]})
    with pytest.raises(UserError, match=r"config\.yaml: .*(no setting of a trial|may not decide)"):
        saved_config.base_config([f"run={tmp_path}"])
    key, _, value = override.partition("=")
    if value and not value.startswith("["):
        receive_study(tmp_path, ["+experiment=digits"], {key: [value]})
        with pytest.raises(UserError, match=r"config\.yaml: .*(no setting of a trial|may not decide)"):
            saved_config.base_config([f"run={tmp_path}"])


def test_received_study_keeps_its_ordinary_words(tmp_path: Path) -> None:
    words = ["+experiment=digits", "callbacks=[default,ema]", "~datamodule.augment.crop", "datamodule.root=/data/x",
             "lit_module/net=cnn_small", "+trainer.limit_val_batches=0.5", "lit_module.net.channels=[4,8]"]  # fmt: skip
    receive_study(tmp_path, words, {"lit_module.optimizer.lr": {"low": 0.1, "high": 1.0}, "seed": [0, 1]})
    assert configure(f"run={tmp_path}").overrides == words


def test_user_may_type_a_word_that_a_study_may_not_hold(tmp_path: Path) -> None:
    receive_study(tmp_path, ["init_from=model/a.pt"], {"seed": [0]})
    assert configure(f"run={tmp_path}", "init_from=model/a.pt").overrides == ["init_from=model/a.pt"]


def save_tracked(folder: Path) -> None:
    """Writes the config of a run with MLflow, which need not be installed."""
    cfg = composed("+experiment=digits", "logger=[default,mlflow]").copy()
    cfg.run_dir = str(folder)
    saved_config.write(folder / "config.yaml", cfg)


def test_tracker_of_a_received_run_is_typed_again(tmp_path: Path) -> None:
    save_tracked(tmp_path)
    with pytest.raises(UserError, match=r"logger\.mlflow may .*; add logger=\[default,mlflow\] .* logger=default"):
        configure(f"run={tmp_path}")
    with pytest.raises(UserError, match=r"logger\.mlflow may send scores"):
        configure(f"run={tmp_path}", "logger=[saved,mlflow]")
    assert "mlflow" in configure(f"run={tmp_path}", "logger=[default,mlflow]").logger
    assert configure(f"run={tmp_path}", "logger=default").logger.keys() == {"tensorboard", "epoch_csv"}


@pytest.mark.parametrize("task", ["test", "predict", "export", "inspect", "tune"])
def test_task_that_logs_nothing_starts_no_tracker(tmp_path: Path, task: str) -> None:
    save_tracked(tmp_path)
    assert configure(f"run={tmp_path}", f"task={task}").logger.keys() == {"tensorboard", "epoch_csv"}


def test_study_in_another_place_is_not_taken_from_its_config(tmp_path: Path) -> None:
    receive_study(tmp_path, [], {"seed": [0]})
    assert configure(f"run={tmp_path}").storage == f"sqlite:///{tmp_path}/study.db"
    text = (tmp_path / "config.yaml").read_text().replace("${run_dir}/study.db", "/tmp/evil/study.db")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"storage is sqlite:////tmp/evil/study\.db; .*: add storage=… "):
        configure(f"run={tmp_path}")


def test_values_of_the_environment_are_saved_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_OF_MINE", "7")
    save(tmp_path, "seed=${oc.env:SEED_OF_MINE}", "devices=fsdp")
    monkeypatch.delenv("SEED_OF_MINE")
    saved = configure(f"run={tmp_path}")
    assert saved.seed == 7
    assert "LOCAL_WORLD_SIZE" in (tmp_path / "config.yaml").read_text(), "the number of processes may be another"


def options(group: str) -> Iterator[str]:
    for file in sorted((received_config.CONF / group).glob("*.yaml")):
        yield f"{'+' if group == 'experiment' else ''}{group}={file.stem}"


@pytest.mark.parametrize("choice", [*options("experiment"), "devices=fsdp", "devices=multi_node", "trainer=profile"])
def test_every_own_option_can_be_read_from_its_run(tmp_path: Path, choice: str) -> None:
    save(tmp_path, choice, *(f"{key}=/data/x" for key in OmegaConf.missing_keys(configure(choice))))
    validation.check(configure(f"run={tmp_path}"))


def test_callbacks_and_loggers_of_lists_can_be_read_from_their_run(tmp_path: Path) -> None:
    callbacks = [file.stem for file in (received_config.CONF / "callbacks").glob("*.yaml")]
    choices = [f"callbacks=[{','.join(sorted(callbacks))}]", "logger=[default,tensorboard,epoch_csv]"]
    save(tmp_path, *choices)
    configure(f"run={tmp_path}")


def test_paths_of_all_constructors_are_known_by_their_names() -> None:
    """Parameters that take a path, of whatever a config may build."""
    modules = [pytorch_lightning.callbacks, pytorch_lightning.loggers, pytorch_lightning.profilers]
    count = 0
    for module in (*modules, pytorch_lightning.strategies):
        for constructor in filter(inspect.isclass, vars(module).values()):
            if not constructor.__module__.startswith("pytorch_lightning."):
                continue
            for name, parameter in inspect.signature(constructor).parameters.items():
                if re.search(r"\bPath\b|PathLike|_PATH", str(parameter.annotation)):
                    count += 1
                    assert received_config.PLACE.search(name), f"{constructor.__name__}.{name}"
    assert count > 5


@pytest.mark.parametrize("text", [*OVERRIDES, "\0", "{", "'", "${", "a=${b", "=", "~"])
def test_any_word_of_a_study_is_one_line(tmp_path: Path, text: str) -> None:
    receive_study(tmp_path, [], {"seed": [0]})
    saved = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))
    assert isinstance(saved, dict)
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)):
        received_config.check(tmp_path, saved | {"overrides": [text]}, [])
