"""Every file under conf/ composes and is valid, and its constructors accept its values."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from conf import validation
from conf.errors import UserError
from tests.conftest import ROOT, configure

CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/**/*.yaml"))
EXPERIMENTS = [path for path in FILES if path.parts[0] == "experiment"]
ABSTRACT = [Path("datamodule/images.yaml"), Path("datamodule/samples.yaml")]  # other options are based on them
OPTIONS = [path for path in FILES if path.parts[0] != "experiment" and path not in ABSTRACT]
# Groups of which several files can be chosen together.
LISTS = {"callbacks", "logger", "datamodule/augment", "lit_module/metrics"}
# Values of keys that the user has to set, unless any text will do.
REQUIRED: dict[str, Any] = {"space": {"seed": [0, 1]}, "lit_module.loss.teacher": None}


@cache
def composed(*overrides: str) -> DictConfig:
    return configure(*overrides)


def complete(*overrides: str) -> DictConfig:
    """The config of these overrides, with a value for every key that the user has to set."""
    cfg = composed(*overrides).copy()
    for key in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, key, REQUIRED.get(key, "something"), force_add=True)
    return cfg


def experiment_name(path: Path) -> str:
    """The value of +experiment=."""
    return path.relative_to("experiment").with_suffix("").as_posix()


def choose(path: Path) -> list[str]:
    """The overrides that choose a file, on a CPU unless the file is about devices."""
    group, name = path.parent.as_posix(), path.stem
    override = f"{group}=[{name}]" if group in LISTS else f"{group}={name}"
    if group == "sweep":
        override = f"+{override}"
    if group.startswith(("datamodule", "lit_module")):  # the others have the callbacks, which take a third of the time
        return [override, "devices=cpu", "callbacks=[]", "logger=[]"]
    return [override] if group == "devices" else [override, "devices=cpu"]


def nodes(node: Any) -> Iterator[DictConfig]:
    """The outermost constructor nodes, without the module, whose parameters depend on the data."""
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node and node._target_ != "lit_modules.classifier.LitClassifier":
        yield node
        return
    for key in node:
        if not OmegaConf.is_missing(node, key):
            yield from nodes(node[key])


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in node.items():
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_group_is_seen() -> None:
    groups = {path.parts[0] for path in FILES}
    assert groups == {entry.name for entry in CONF.iterdir() if entry.is_dir() and any(entry.rglob("*.yaml"))}
    assert {path.stem for path in EXPERIMENTS} >= {"digits", "cifar10", "image_folder"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_experiment_is_complete_and_has_its_name(path: Path) -> None:
    cfg = complete(f"+experiment={experiment_name(path)}")
    validation.check(cfg)
    assert cfg.name == experiment_name(path)
    assert f"/{path.stem}/" in cfg.run_dir


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_experiment_is_short_and_starts_with_its_command(path: Path) -> None:
    lines = (CONF / path).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 20
    assert lines[0] == "# @package _global_"
    header = [line for line in lines if line.startswith("#")]
    command = re.compile(rf"\bpython train\.py \+experiment={re.escape(experiment_name(path))}\b")
    assert any(command.search(line) for line in header)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_experiment_contains_only_differences(path: Path) -> None:
    experiment = OmegaConf.load(CONF / path)
    assert isinstance(experiment, DictConfig)
    defaults = experiment.pop("defaults", [])
    bases = [f"+experiment={entry.removeprefix('/experiment/')}" for entry in defaults if isinstance(entry, str)]
    chosen = [(key, value) for entry in defaults if not isinstance(entry, str) for key, value in entry.items()]
    groups = [f"{key.removeprefix('override /')}={value}".replace("'", "").replace(" ", "") for key, value in chosen]
    without = complete(*bases, *groups)
    assert [key for key, value in leaves(experiment) if OmegaConf.select(without, key) == value] == []


@pytest.mark.parametrize("path", OPTIONS, ids=str)
def test_option_composes_and_its_constructors_accept_it(path: Path, tmp_path: Path) -> None:
    cfg = complete(*choose(path))
    cfg.run_dir = str(tmp_path / "run")
    validation.check(cfg)
    for node in nodes(cfg):
        # The machine may not have these devices.
        if path.parts[0] != "devices" or node._target_ != "pytorch_lightning.Trainer":
            assert instantiate(node, _convert_="all") is not None
    assert not (tmp_path / "run").exists(), "a constructor writes nothing"


@pytest.mark.parametrize("path", ABSTRACT, ids=str)
def test_option_without_a_constructor_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match=r"^datamodule: has no _target_; choose one by datamodule=…"):
        validation.check(complete(*choose(path)))


@pytest.mark.parametrize("path", [path for path in OPTIONS if path.parts[0] == "lit_module"], ids=str)
def test_option_of_the_module_maps_images_to_logits(path: Path) -> None:
    names = [str(i) for i in range(10)]
    data = {"input_shape": (1, 32, 32), "class_names": names, "class_counts": [5] * 10, "mean": [0.5], "std": [0.5]}
    module = instantiate(complete(*choose(path)).lit_module, **data, _convert_="all")
    assert module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_devices_make_a_trainer(name: str, tmp_path: Path) -> None:
    trainer = instantiate(configure(f"devices={name}", f"run_dir={tmp_path}").trainer, _convert_="all")
    assert trainer.num_devices >= 1


@pytest.mark.parametrize("names", [["crop", "flip"], ["flip", "crop"]])
def test_augmentations_keep_the_order_of_the_command(names: list[str]) -> None:
    cfg = configure(f"datamodule/augment=[{','.join(names)}]")
    assert list(cfg.datamodule.augment) == names
