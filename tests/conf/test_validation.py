"""A config is valid exactly if every constructor in it is allowed and takes its values."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

import lit_modules
from conf import schema, validation
from conf.errors import UserError
from conf.monitors import SCORES
from tests.conftest import ROOT, configure

CROP = {"_target_": "datamodules.augment.transforms.RandomCrop", "padding": 2, "fill": "black"}


@cache
def base() -> DictConfig:
    return configure()


def changed(changes: dict[str, Any]) -> DictConfig:
    """The default config with other values; faster than composing it for each test."""
    cfg = base().copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        validation.check(changed(changes))
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 4294967295),
        ("trainer.max_epochs", None),
        ("trainer.limit_train_batches", 3),
        ("trainer.limit_train_batches", 0.5),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.precision", 16),
        ("trainer.devices", [0, 1]),
        ("datamodule.channels", 3),
        ("datamodule.image_size", 32),
        ("datamodule.image_size", [32, 48]),
        ("datamodule.num_workers", None),
        ("lit_module.class_weights", "auto"),
        ("lit_module.class_weights", [1, 0.5]),
        ("lit_module.net.pool", [2, 1]),
        ("lit_module.net.dropout", 0),
        ("lit_module.scheduler", None),
        ("lit_module.optimizer.betas", [0.9, 0.99]),
        ("lit_module.param_groups.head", {"pattern": ["head.*"], "lr": 0.1}),
        ("callbacks.checkpoint", None),
        ("datamodule.augment.x", CROP),
        ("datamodule.augment.x", {"_target_": "torchvision.transforms.v2.RandomErasing", "p": 0.2}),
        ("trainer.plugins", [{"_target_": "torchvision.models.resnet18", "_partial_": True, "num_classes": 3}]),
        ("logger", {}),
    ],
)
def test_value_that_a_constructor_takes_is_valid(key: str, value: object) -> None:
    validation.check(changed({key: value}))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("datamodule.batch_size", 64.5, "int"),
        ("datamodule.batch_size", True, "int"),
        ("datamodule.batch_size", None, "int"),
        ("datamodule.val_fraction", "few", "float"),
        ("datamodule.val_fraction", True, "float"),
        ("datamodule.drop_last", 1, "bool"),
        ("lit_module.net.activation", 3, "str"),
        ("lit_module.net.channels", 32, "list[int]"),
        ("lit_module.net.channels", ["a"], "list[int]"),
        ("lit_module.freeze", "blocks", "list[str] or body"),
        ("datamodule.augment", "flip", "dict[str, Any]"),
        ("lit_module.net.norm", "layer", "batch or instance or none"),
        ("datamodule.channels", 2, "auto or 1 or 3"),
        ("trainer.max_epochs", "ten", "int or null"),
        ("trainer.max_time", 5, "str or dict[str, int] or null"),
        ("datamodule.image_size", "big", "int or list[int] or null"),
        ("lit_module.net.pool", [1.5], "int or list[int]"),
        ("lit_module.class_weights", "a", "auto or list[float] or null"),
    ],
)
def test_value_of_another_type_is_refused(key: str, value: object, expected: str) -> None:
    assert refusal({key: value}) == f"{key}: {value!r} does not fit; give {expected}"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("lit_module.net.chanels", [4], "lit_module.net.chanels: CNN has no such parameter; did you mean 'channels'?"),
        ("trainer.logger_", 1, "trainer.logger_: Trainer has no such parameter; did you mean 'logger'?"),
        ("datamodule.augment.x", {**CROP, "fil": 1}, "datamodule.augment.x.fil: RandomCrop has no such parameter; did"),
        (
            "trainer.plugins",
            [{"_target_": "lit_modules.trainer.checkpoint_io.DurableCheckpointIO", "x": 1}],
            "trainer.plugins.0.x: DurableCheckpointIO has no such parameter",
        ),
    ],
)
def test_key_that_is_no_parameter_is_refused_at_any_depth(key: str, value: object, line: str) -> None:
    assert refusal({key: value}).startswith(line)


@pytest.mark.parametrize("key", ["sead", "learning_rate"])
def test_unknown_root_key_is_refused(key: str) -> None:
    assert refusal({key: 1}).startswith(f"{key}: ")


def test_directives_of_hydra_are_accepted() -> None:
    validation.check(changed({"lit_module.net._convert_": "all", "lit_module.net._recursive_": True}))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.exec",
        "subprocess.run",
        "torch.hub.load",
        "torch.load",
        "conf.files.write_text",
        "train.fit",
        "torchx.nn.Linear",
    ],
)
def test_target_of_another_package_is_refused(target: str) -> None:
    line = refusal({"lit_module.loss._target_": target})
    fix = "if you trust it, set LITMUS_PACKAGES=torchx" if target.startswith("torchx") else "use one of "
    assert line.startswith(f"lit_module.loss._target_: {target} is not from an allowed package; {fix}")


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.init.math.exp",
        "lit_modules.networks.initialization.torch.hub.load",
        "pytorch_lightning.trainer.trainer.os.getcwd",
        "datamodules.storage.decode.np.load",
        "datamodules.storage.image_header.EXIF_ORIENTATION",
        "torch.nn.functional",
    ],
)
def test_target_that_a_package_only_imports_is_refused(target: str) -> None:
    line = refusal({"lit_module.loss._target_": target})
    assert line.startswith(f"lit_module.loss._target_: {target} is not defined by an allowed package")


@pytest.mark.parametrize(
    ("target", "more"),
    [
        ("pytorch_lightning.LightningModule.load_from_checkpoint", {}),
        ("pytorch_lightning.LightningDataModule.load_from_checkpoint", {}),
        ("pytorch_lightning.core.saving._load_from_checkpoint", {"cls": None}),
    ],
)
def test_target_that_would_unpickle_a_file_is_refused(target: str, more: dict[str, Any]) -> None:
    node = {"_target_": target, "checkpoint_path": "x", "weights_only": False, **more}
    assert refusal({"callbacks.x": node}).startswith(f"callbacks.x._target_: {target} ")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("torch.nn.CrossEntropyLos", "there is no CrossEntropyLos in torch.nn; did you mean 'CrossEntropyLoss'?"),
        ("lit_modules.networks.cn.CNN", "there is no CNN in lit_modules.networks.cn; correct the name"),
    ],
)
def test_target_that_does_not_exist_is_refused(target: str, hint: str) -> None:
    assert refusal({"lit_module.loss._target_": target}) == f"lit_module.loss._target_: {hint}"


@pytest.mark.parametrize("statement", ["import nothing_here", "from os import nothing_here", "{}['nothing here']"])
def test_broken_import_of_our_own_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "broken.py").write_text(f"{statement}\nclass Loss: pass\n")
    monkeypatch.setattr(lit_modules, "__path__", [*lit_modules.__path__, str(tmp_path)])
    with pytest.raises((ImportError, KeyError), match="nothing"):
        validation.check(changed({"lit_module.loss._target_": "lit_modules.broken.Loss"}))


def test_hint_offers_only_what_the_module_defines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from pathlib import Path\nfrom typing import Any\nclass _Hidden: pass\nclass Loss: pass\ndef other(): pass\n"
    )
    (tmp_path / "hinted.py").write_text(text)
    monkeypatch.setattr(lit_modules, "__path__", [*lit_modules.__path__, str(tmp_path)])
    line = refusal({"lit_module.loss._target_": "lit_modules.hinted.Nothing"})
    assert line == "lit_module.loss._target_: there is no Nothing in lit_modules.hinted; choose from Loss, other"


def test_hint_does_not_list_a_hundred_names() -> None:
    line = refusal({"lit_module.loss._target_": "torch.nn.Qwertz"})
    assert line == "lit_module.loss._target_: there is no Qwertz in torch.nn; correct the name"


def test_store_replaces_configs_where_hydra_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def store(name: str, node: Any, group: str = "", package: str = "", replace: bool = False) -> None:
        calls.append({"name": name, "replace": replace})

    monkeypatch.setattr(ConfigStore.instance(), "store", store)  # of Hydra 1.4
    schema.store({}, name="saved")
    assert calls == [{"name": "saved", "replace": True}]


@pytest.mark.parametrize("monitor", SCORES)
def test_every_score_may_be_monitored_in_its_direction(monitor: str) -> None:
    right, wrong = ("min", "max") if monitor in ("train/loss", "val/loss") else ("max", "min")
    validation.check(changed({"monitor": monitor, "mode": right}))
    assert refusal({"monitor": monitor, "mode": wrong}).endswith(f"set mode={right}")
    assert refusal({"monitor": monitor, "mode": "best"}).startswith("mode: ")


@pytest.mark.parametrize("monitor", ["test/f1", "test/loss", "val/accuracy", "f1", "val_f1"])
def test_other_scores_may_not_be_monitored(monitor: str) -> None:
    assert refusal({"monitor": monitor}).startswith(f"monitor: {monitor}: ")


@pytest.mark.parametrize("batches", [0, 0.0])
def test_validation_score_needs_validation(batches: float) -> None:
    assert refusal({"trainer.limit_val_batches": batches}).startswith("monitor: val/f1 needs validation; ")
    validation.check(changed({"trainer.limit_val_batches": batches, "monitor": "train/f1"}))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    assert refusal({"seed": seed}).startswith("seed: ")


@pytest.mark.parametrize("key", ["name", "logs_dir", "run_dir"])
@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31m", "a\0", "x" * 256, "é" * 128])
def test_folder_of_no_usable_name_is_refused(key: str, value: str) -> None:
    assert refusal({key: value}).startswith(f"{key}: ")
    validation.check(changed({key: "é" * 127}))


def test_parameters_that_the_yaml_does_not_list_need_no_plus() -> None:
    cfg = configure("lit_module.optimizer.betas=[0.9,0.95]", "trainer.detect_anomaly=true")
    validation.check(cfg)
    assert list(cfg.lit_module.optimizer.betas) == [0.9, 0.95] and cfg.trainer.detect_anomaly


def test_task_of_a_run_needs_the_run() -> None:
    with pytest.raises(UserError, match=r"^run: is not set; add run=… to the command$"):
        validation.check(configure("task=test"))


def test_interpolations_are_resolved_before_the_check() -> None:
    line = refusal({"trainer.max_epochs": "${name}"})
    assert line == "trainer.max_epochs: 'default' does not fit; give int or null"


def test_check_leaves_the_config_as_it_is() -> None:
    cfg = configure("+experiment=digits")
    before = OmegaConf.to_yaml(cfg)
    validation.check(cfg)
    assert OmegaConf.to_yaml(cfg) == before


def test_modules_of_conf_import_no_torch() -> None:
    code = "import sys, conf.saved_config, conf.validation, conf.error_messages; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
