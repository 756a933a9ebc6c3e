"""run=DIR: a saved config as the base of a command, and what may not change on resume."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from conf import renamed
from conf.errors import UserError
from conf.schema import TASKS

CONF = Path(__file__).parent

# What a run keeps as long as it lives: sections, and parts of another.
KEPT = ("seed", "monitor", "mode", "init_from", "datamodule", "lit_module")
# What changes speed alone, or says where the same data are.
FREE = ("num_workers", "root", "download", "cache", "cache_dir", "gpu_cache_fraction")
KEPT_PARTS = ("callbacks.checkpoint.every_n_epochs", "callbacks.adam_to_sgd.", "callbacks.ema.", "callbacks.whitening.")


def base_config(arguments: list[str]) -> str:
    """The name of the config that a command line starts from: `train`, or with `run=DIR` the one saved in DIR; for
    the task that builds nothing, `compare`.

    The saved sections become options of their config groups, so that overrides of values, other options of these
    groups, and experiments work on top of them as they do on `train`.

    Raises:
        UserError: DIR holds no saved config.
    """
    if "task=compare" in arguments:
        if {"-m", "--multirun"} & set(arguments):
            raise UserError("-m: task=compare makes no runs; leave it out")
        return "compare"
    runs = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("run=")]
    if not runs or runs[-1] in ("", "null"):
        return "train"
    path = Path(runs[-1]) / "config.yaml"
    saved = read(Path(runs[-1]))
    base = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(base, DictConfig)
    store = ConfigStore.instance()
    for entry in base.defaults:
        if not isinstance(entry, DictConfig):
            continue
        (group,) = entry
        if group == "task" and saved.get("task") == "sweep":
            entry[group] = "sweep"
        elif group in saved and group != "task":
            section = saved[group]
            if isinstance(section, DictConfig) and "defaults" in section:  # Hydra would obey them
                raise UserError(f"{path}: holds {group!s}.defaults, which no run saves; take it from a copy of the run")
            _store_section(str(group), OmegaConf.to_container(section))
            entry[group] = ["saved"] if isinstance(entry[group], ListConfig) else "saved"
        elif group == "devices":  # part of the saved trainer
            store.store(group="devices", name="saved", node={}, package="trainer")
            entry[group] = "saved"
    groups = {str(group) for entry in base.defaults if isinstance(entry, DictConfig) for group in entry}
    values = {str(key): node for key, node in saved.items_ex(resolve=False) if key not in groups}
    # Of others Hydra's own section could run code, and a list of defaults read any file.
    if foreign := sorted(values.keys() - {known.name for task in TASKS.values() for known in fields(task)}):
        raise UserError(f"{path}: holds {foreign[0]}, which no run saves; take it from a copy of the run")
    merged = OmegaConf.merge(base, values, {"run_dir": runs[-1]})
    store.store(name="saved_run", node=OmegaConf.to_container(merged))
    return "saved_run"


def _store_section(group: str, section: Any) -> None:
    """Makes a saved section the option `saved` of its config group, and its parts options of the groups within."""
    store = ConfigStore.instance()
    parts = {path.name for path in (CONF / group).iterdir() if path.is_dir()} if isinstance(section, dict) else set()
    defaults: list[Any] = ["_self_"]
    for part in sorted(parts):
        value = section.pop(part) if isinstance(section.get(part), dict) else None
        package = f"{group}.{part}" if value else group
        store.store(group=f"{group}/{part}", name="saved", node=value or {}, package=package)
        defaults.append({part: ["saved"] if part == "augment" else "saved"})
        if value == {}:
            section[part] = {}
    store.store(group=group, name="saved", node=section | {"defaults": defaults} if parts else section)


def read(folder: Path) -> DictConfig:
    """The config that a run saved, brought up to date.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"run: {folder} holds no config.yaml; give the folder of a run, such as logs/digits/…")
    try:
        saved = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:  # the last of a bare word
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: is damaged ({problem}); take it from a copy of the run") from error
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path}: holds no settings by name; give the folder of a run, such as logs/digits/…")
    plain: Any = OmegaConf.to_container(saved)
    assert isinstance(plain, dict)
    renamed.update(plain)
    return OmegaConf.create(plain)


def check_unchanged(folder: Path, cfg: DictConfig) -> None:
    """A resumed run goes on as it was: what decides its weights may not change, lest it be ignored in silence.

    Raises:
        UserError: one of them differs from what the run's config.yaml says.
    """
    free = set(FREE) | ({"batch_size"} if cfg.task != "fit" else set())
    saved, now = (flat(OmegaConf.to_container(each)) for each in (read(folder), cfg))
    for key in sorted(saved.keys() | now.keys()):
        section, _, rest = key.partition(".")
        kept = section in KEPT or key.startswith(KEPT_PARTS)
        if kept and rest not in free and saved.get(key) != now.get(key):
            raise UserError(
                f"{key}: this run has {saved.get(key)}, not {now.get(key)}, and a resumed run keeps it; "
                "leave it out, or start a new run without run=…"
            )


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings → one level with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value for name, child in node.items() for key, value in flat(child, f"{prefix}.{name}".lstrip(".")).items()
    }


def without_pretrained_weights(cfg: DictConfig) -> DictConfig:
    """A copy whose network reads no weights, for a checkpoint's replace them: their file may be gone."""
    copy = cfg.copy()
    if "weights" in copy.lit_module.net:
        copy.lit_module.net.weights = ""
    return copy
