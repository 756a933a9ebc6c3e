"""Every option of the module's config groups works with every shipped experiment."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException

from conf import saved_config, schema, validation
from conf.error_messages import one_line
from conf.errors import UserError
from tests.conftest import ROOT, write_images

CONF = ROOT / "conf"
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix() for path in CONF.glob("experiment/**/*.yaml")
)
GROUPS = ("net", "optimizer", "scheduler", "loss", "init")
OPTIONS = {group: sorted(path.stem for path in CONF.glob(f"lit_module/{group}/*.yaml")) for group in GROUPS}
OPTIONS["loss"].remove("distill")  # needs a teacher: lit_modules/optim/test_distillation.py
NO_CALLBACKS = ("callbacks=[]", "logger=[]")  # which takes a third of the time
ONE_BATCH = (
    "trainer=debug",
    "devices=cpu",
    "datamodule.batch_size=8",
    "datamodule.val_fraction=0.3",
    "datamodule.test_fraction=0.3",
    "++callbacks.predictions=null",
    "++callbacks.dashboard=null",
)
# Refused by design: (experiment, a word among the overrides, the beginning of the line).
REFUSED = (
    ("adam_to_sgd", "/optimizer=sgd", "lit_module.optimizer: adam_to_sgd "),
    ("adam_to_sgd", "/optimizer=muon", "lit_module.optimizer: adam_to_sgd "),
    ("adam_to_sgd", "/scheduler=one_cycle", "lit_module.scheduler: OneCycleLR "),
    ("series", "/net=efficientnet_lite", "lit_module.net: "),
    ("series", "/net=speedrun", "lit_module.net: "),
    ("series", "/net=timm", "lit_module.net: "),
    ("series", "/net=torchvision", "lit_module.net: "),
    ("volumes", "/net=cnn_series", "lit_module.net.pool: "),
    ("volumes", "/net=efficientnet_lite", "lit_module.net: "),
    ("volumes", "/net=speedrun", "lit_module.net: "),
    ("volumes", "/net=timm", "lit_module.net: "),
    ("volumes", "/net=torchvision", "lit_module.net: "),
)


def combinations() -> list[list[str]]:
    """Choices of one option of each group, as few as contain every option."""
    count = max(map(len, OPTIONS.values()))
    return [
        [f"lit_module/{group}={options[i % len(options)]}" for group, options in OPTIONS.items()] for i in range(count)
    ]


def module_keys(experiment: str) -> frozenset[str]:
    """The keys below lit_module that an experiment sets, and those that it is based on."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    keys = frozenset(saved_config.flat(content.get("lit_module", {})))
    for default in content["defaults"]:
        if isinstance(default, str):
            keys |= module_keys(default.removeprefix("/experiment/"))
    return keys


def representatives() -> list[str]:
    """One experiment for each set of keys, since options compose alike where an experiment sets the same keys."""
    return list({module_keys(experiment): experiment for experiment in reversed(EXPERIMENTS)}.values())


SETTING_MOST, *OTHERS = sorted(representatives(), key=lambda experiment: -len(module_keys(experiment)))


@pytest.mark.parametrize("experiment", [SETTING_MOST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_option_is_valid_in_an_experiment(experiment: str) -> None:
    with initialize_config_dir(str(CONF), **schema.VERSION_BASE):
        for overrides in combinations():
            validation.check(compose("train", [f"+experiment={experiment}", *overrides, *NO_CALLBACKS]))


def tiny_data(experiment: str, images: Path) -> list[str]:
    """Overrides for small data that need no download."""
    if experiment in ("series", "volumes"):
        return ["datamodule.count=60"]
    if experiment in ("adam_to_sgd", "digits", "finetune"):
        return ["datamodule.image_size=32"]
    overrides = ["datamodule=image_folder", f"datamodule.root={images}", "datamodule.drop_last=false"]
    return overrides if experiment in ("image_folder", "from_scratch") else [*overrides, "~datamodule.dataset"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_option_trains_in_every_experiment(experiment: str, run: Callable[..., Path], tmp_path: Path) -> None:
    for name, level in (("airplane", 60), ("bird", 190)):
        write_images(tmp_path / "images" / name, 20, level=level, size=(32, 32))
    data = tiny_data(experiment, tmp_path / "images")
    for i, overrides in enumerate(combinations()):
        expected = [line for name, word, line in REFUSED if name == experiment and word in " ".join(overrides)]
        line = "trained"
        try:
            run(f"+experiment={experiment}", *overrides, *data, *ONE_BATCH, f"run_dir={tmp_path / str(i)}")
        except (UserError, InstantiationException) as error:
            line = str(one_line(error))
        assert line.startswith(tuple(expected or ["trained"])), (overrides, line)
