"""run=DIR: a saved config is the base of a command; what a resumed run may change."""

import pkgutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conf import renamed, saved_config, validation
from conf.errors import UserError
from tests.conftest import configure
from tests.saved_runs import CHOICES, plain, save


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
def test_resumed_run_keeps_callbacks_that_decide_its_weights(tmp_path: Path, callback: str) -> None:
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


def as_earlier_version(node: Any, key: str = "") -> Any:
    """A config under the keys and targets that an earlier version saved."""
    old_keys = {new: old for old, new in renamed.KEYS.items()}
    old_targets = {new: old for old, new in renamed.TARGETS.items()}
    if isinstance(node, list):
        return [as_earlier_version(child, f"{key}[]") for child in node]
    if not isinstance(node, dict):
        return node
    old = {}
    for name, child in node.items():
        path = f"{key}.{name}".lstrip(".")
        old[old_keys.get(path, path).rpartition(".")[2]] = as_earlier_version(child, path)
    if "_target_" in old:
        old["_target_"] = old_targets.get(old["_target_"], old["_target_"])
    return old


@pytest.mark.parametrize("choices", [CHOICES, ("+experiment=cifar10_speedrun",), ("callbacks=[default,adam_to_sgd]",)])
def test_config_of_an_earlier_version_is_updated(tmp_path: Path, choices: tuple[str, ...]) -> None:
    saved = plain(save(tmp_path, *choices))
    earlier = as_earlier_version(saved)
    earlier["datamodule"]["on_bad"] = "error"
    if "speedrun" in choices[0]:
        earlier["lit_module"]["scheduler"]["until"] = {}
    assert "lit_modules.trainer" not in str(earlier) and "max_overhead" not in str(earlier)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(earlier)))
    assert plain(configure(f"run={tmp_path}")) == saved | {"run": str(tmp_path)}


def test_renamed_targets_exist() -> None:
    for target in renamed.TARGETS.values():
        assert callable(pkgutil.resolve_name(target))


@pytest.mark.parametrize("part", ["lit_module.net", "lit_module.scheduler", "datamodule.augment"])
def test_saved_part_with_a_defaults_list_is_rejected(tmp_path: Path, part: str) -> None:
    cfg = save(tmp_path, *CHOICES)
    OmegaConf.update(cfg, f"{part}.defaults", ["/experiment/digits"], force_add=True)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    with pytest.raises(UserError, match=rf"config\.yaml: holds {part}\.defaults, which no run saves"):
        configure(f"run={tmp_path}")


def test_removing_pretrained_weights_changes_no_checked_target() -> None:
    target = "${oc.select:trainer.t${lit_module.net.weights}}"
    received = OmegaConf.create(
        {
            "trainer": {"ta": "torch.nn.Identity", "t": "torch.load"},
            "lit_module": {"net": {"weights": "a", "x": target}},
        }
    )
    net = saved_config.without_pretrained_weights(received).lit_module.net
    assert (net.weights, net.x) == ("", "torch.nn.Identity")
