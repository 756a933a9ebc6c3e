"""Checks a composed config before data are read: root keys, sections, every `_target_` node, the Trainer."""

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import monitors
from conf.errors import UserError, nearest
from conf.nodes import check_nodes
from conf.schema import TASKS
from conf.unknown_keys import unknown_key

MAX_SEED = 2**32 - 1  # NumPy's
# Config groups of which several options are chosen together, as dotted keys.
LISTS = ("callbacks", "logger", "datamodule.augment", "lit_module.metrics")
# What the checks below read as nodes, with an option of their config group.
SECTIONS = {"datamodule": "digits", "lit_module": "classifier", "lit_module.net": "cnn", "trainer": "default"}
MAX_NAME = 255  # bytes of a file name


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Check everything that composition accepts but a task cannot use.

    Args:
        overrides: of the command line.

    Raises:
        UserError: a key is unknown or missing, or a value is wrong or would have no effect.
    """
    _check_overrides(cfg, overrides)
    _check_root_keys(cfg)
    _check_run(cfg)
    _check_folds(cfg)
    _check_sections(cfg)
    _check_lists(cfg)
    _check_callbacks(cfg)
    _check_freeze(cfg)
    if cfg.task not in ("compare", "report", "predict", "serve"):  # they monitor nothing
        monitors.check(cfg)
    if cfg.task not in ("compare", "report"):  # they build nothing, and answer without importing torch
        check_nodes(_built(cfg, overrides))
        _check_trainer(cfg)  # whose values have their types now


def _built(cfg: DictConfig, overrides: Sequence[str]) -> Any:
    """The parts of a config that a task builds, and those that the command line changes, as plain values.

    A prediction builds the network alone; checking the rest would import Lightning, which takes longer than it does.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if cfg.task not in ("predict", "serve"):
        return plain
    typed = {override.lstrip("+~").partition("=")[0].partition(".")[0].partition("/")[0] for override in overrides}
    return {key: plain[key] for key in typed & plain.keys()} | {"lit_module": {"net": plain["lit_module"]["net"]}}


def _check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """`key={}` merges an empty dict into the old value, so it has no effect."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if value.replace(" ", "") != "{}":
            continue
        old = OmegaConf.select(cfg, key)
        if old:
            fix = f"{key}=null" if "_target_" in old else f"~{key}.{next(iter(old))}"
            raise UserError(f"{key}: {{}} is merged into the old value and has no effect; remove parts by {fix}")


def _check_root_keys(cfg: DictConfig) -> None:
    if cfg.task not in TASKS:
        raise UserError(f"task: there is no {cfg.task}; {nearest(cfg.task, TASKS)}")
    known = [field.name for field in fields(TASKS[cfg.task])]
    for key in map(str, cfg):
        if key not in known:
            raise UserError(unknown_key(key, known, cfg))
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key}: is not set; add {key}=… to the command")
        if cfg[key] == "":
            raise UserError(f"{key}: is empty; give it a value, or leave it out")
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key}: is not set; add {key}=… to the command")


def _check_run(cfg: DictConfig) -> None:
    if not 0 <= cfg.seed <= MAX_SEED:
        raise UserError(f"seed: must be from 0 to {MAX_SEED}, not {cfg.seed}; choose seed=0")
    if Path(cfg.name).is_absolute() or ".." in Path(cfg.name).parts:
        raise UserError(f"name: {cfg.name} is outside of logs_dir; choose a plain name, or set run_dir")
    for key in ("name", "logs_dir", "run_dir"):
        names = Path(cfg[key]).parts
        if not str(cfg[key]).isprintable():
            raise UserError(f"{key}: {cfg[key]!r} has a character that cannot be printed; leave it out")
        if any(len(os.fsencode(name)) > MAX_NAME for name in names):
            raise UserError(f"{key}: a file name of more than {MAX_NAME} bytes; shorten it")
    if cfg.run and Path(cfg.run_dir) != Path(cfg.run):
        raise UserError(f"run_dir: the run {cfg.run} stays in its folder; leave run_dir out, and sweep new runs only")


def _check_folds(cfg: DictConfig) -> None:
    """Keys of a cross-validation, which is a study of its own."""
    for key in ("repeats",) if cfg.task == "sweep" else ("repeats", "workers"):
        if cfg.folds is None and cfg[key] != 1:
            hint = ", or write datamodule.num_workers=…" if key == "workers" else ""
            raise UserError(f"{key}: is of a cross-validation; add folds=5{hint}")
    if cfg.folds is None and cfg.workers != 1 and cfg.task != "sweep":
        raise UserError("workers: trains folds at the same time; add folds=5, or write datamodule.num_workers=…")
    if cfg.folds is not None and cfg.folds < 2:
        raise UserError(f"folds: must be at least 2, not {cfg.folds}; try folds=5")
    if cfg.folds is not None and cfg.task in ("sweep", "tune"):
        raise UserError(f"folds: task={cfg.task} does not cross-validate; leave it out")
    if cfg.folds is not None and not cfg.test:
        raise UserError("test: each fold is the test split of a run; leave it out")
    if cfg.task != "sweep" and min(cfg.repeats, cfg.workers) < 1:
        raise UserError("repeats, workers: must be at least 1; set them, such as repeats=2 workers=1")


def _check_sections(cfg: DictConfig) -> None:
    for key, option in SECTIONS.items():
        node = OmegaConf.select(cfg, key)
        if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
            group = key.replace(".", "/")
            raise UserError(f"{key}: has no _target_; choose one by {group}=…, such as {group}={option}")


def _check_callbacks(cfg: DictConfig) -> None:
    for name, node in cfg.callbacks.items():
        target = str(node.get("_target_")) if isinstance(node, DictConfig) else ""
        if target.endswith(".StochasticWeightAveraging"):
            raise UserError(f"callbacks.{name}: no best epoch would have its weights; use callbacks=[default,ema]")


def _check_lists(cfg: DictConfig) -> None:
    """Values for an option that is not chosen make a node without a `_target_`."""
    for path in LISTS:
        parts = OmegaConf.select(cfg, path)
        if not isinstance(parts, DictConfig):
            continue
        for name, node in parts.items():
            if node is not None and (not isinstance(node, DictConfig) or "_target_" not in node):
                group = path.replace(".", "/")
                raise UserError(f"{path}.{name!s}: is not chosen; add it by {group}=[…,{name!s}]")


def _check_freeze(cfg: DictConfig) -> None:
    """A frozen body with random weights would be of no use."""
    net = cfg.lit_module.net
    trains = cfg.task in ("fit", "tune", "sweep") and not cfg.get("run")
    if trains and cfg.lit_module.get("freeze") == "body" and not (net.get("weights") or cfg.get("init_from")):
        raise UserError(
            "lit_module.freeze: body: its weights would stay random; set lit_module.net.weights=library, or train "
            "them by lit_module.freeze=[]"
        )


def _check_trainer(cfg: DictConfig) -> None:
    """Values with which nothing is trained or tested, or no epoch would be the best."""
    trainer = cfg.trainer
    epochs = trainer.get("max_epochs")
    validated_every = trainer.get("check_val_every_n_epoch") or 1
    if epochs == 0:
        raise UserError("epochs: 0 trains nothing; try 1")
    if cfg.monitor.startswith("val/") and 0 < (epochs or 0) < validated_every:
        raise UserError(f"trainer.check_val_every_n_epoch: none of {epochs} epochs is validated; lower it")
    if trainer.get("max_time") is not None and not re.search("[1-9]", str(trainer.max_time)):
        raise UserError("trainer.max_time: 0 trains nothing; leave it out")
    if trainer.get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run: saves no checkpoint, which a run needs; use trainer=debug")
    if trainer.get("limit_train_batches", 1) == 0:
        raise UserError("trainer.limit_train_batches: 0 trains on nothing; leave it out")
    if cfg.test and trainer.get("limit_test_batches", 1) == 0:
        raise UserError("trainer.limit_test_batches: 0 tests on nothing; set test=false")
    if trainer.get("precision") in ("16-true", "bf16-true"):
        raise UserError("trainer.precision: samples are float32; use 16-mixed or bf16-mixed")
