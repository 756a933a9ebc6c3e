"""run=DIR: a saved config as the base of a command; the keys that a resumed run keeps."""

import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from conf import command_line, received_config, renamed
from conf.errors import UserError
from conf.files import write_text
from conf.schema import store

CONF = Path(__file__).parent

# What a run keeps for life: sections, and parts of other sections.
KEPT = ("seed", "monitor", "mode", "init_from", "folds", "datamodule", "lit_module")
KEPT_PARTS = ("callbacks.checkpoint.every_n_epochs", "callbacks.adam_to_sgd.", "callbacks.ema.", "callbacks.whitening.")
# What affects speed only, or where the same data are.
FREE = ("gradient_checkpointing", "num_workers", "root", "download", "cache", "cache_dir", "gpu_cache_fraction")
# Where a run keeps a copy of the table.
KEPT_RELABEL = "${run_dir}/relabel.csv"


def base_config(arguments: list[str]) -> str:
    """The name of the base config of a command line: `train`, or with `run=DIR` the one saved in DIR.

    The saved sections become options of their config groups, so that overrides of values, other options of these
    groups, and experiments work on top of them as they do on `train`.

    Raises:
        UserError: DIR holds no saved config.
    """
    runs = [command_line.value_of(argument) for argument in arguments if argument.startswith("run=")]
    if not runs or not runs[-1]:
        return "train"
    folder = Path(runs[-1])
    saved = read(folder)
    received_config.check_folder(folder)
    received_config.check(folder, saved, arguments)
    base = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(base, DictConfig)
    choices = [entry for entry in base.defaults if isinstance(entry, DictConfig)]  # one group each
    groups = {str(group) for choice in choices for group in choice}
    for choice in choices:
        (group,) = map(str, choice)
        if group == "task" and saved.get("task") == "sweep":
            choice[group] = "sweep"
        elif group in saved and group != "task":
            _store_section(group, saved[group])
            choice[group] = ["saved"] if isinstance(choice[group], ListConfig) else "saved"
        elif group == "devices":  # part of the saved trainer
            store({}, group="devices", name="saved", package="trainer")
            choice[group] = "saved"
    values = {key: value for key, value in saved.items() if key not in groups}
    merged = OmegaConf.merge(base, values, {"run_dir": runs[-1]})
    store(OmegaConf.to_container(merged), name="saved_run")
    return "saved_run"


def _store_section(group: str, section: Any) -> None:
    """Store a saved section as the option `saved` of its config group, and its parts as options of the inner groups."""
    parts = {path.name for path in (CONF / group).iterdir() if path.is_dir()} if isinstance(section, dict) else set()
    defaults: list[Any] = ["_self_"]
    for part in sorted(parts):
        value = section.pop(part) if isinstance(section.get(part), dict) else None
        package = f"{group}.{part}" if value else group
        store(value or {}, group=f"{group}/{part}", name="saved", package=package)
        defaults.append({part: ["saved"] if part in ("augment", "metrics") else "saved"})
        if value == {}:
            section[part] = {}
    store(section | {"defaults": defaults} if parts else section, group=group, name="saved")


def read(folder: Path) -> dict[str, Any]:
    """The config that a run saved, unresolved, with the present names of its keys.

    Raises:
        UserError: there is none, or it is corrupt.
    """
    path = folder / "config.yaml"
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises an error for a name that is too long)
        raise UserError(f"run: {folder} holds no config.yaml; give the folder of a run, such as logs/digits/…")
    try:
        received_config.check_text(path)
        saved = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:  # OSError: the file is one bare word
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: is corrupt ({problem}); take it from a copy of the run") from error
    if not isinstance(saved, DictConfig):
        raise UserError(f"{path}: is not a mapping of keys to values; give the folder of a run, such as logs/digits/…")
    plain: Any = OmegaConf.to_container(saved)
    assert isinstance(plain, dict)
    renamed.update(plain)
    return plain


def write(path: Path, cfg: DictConfig) -> None:
    """Write the config of a run or a study.

    It keeps references to other keys, so that an override on resume also changes the values that depend on it. Values
    of environment variables and of other resolvers are written as they are now.
    """
    plain, values = OmegaConf.to_container(cfg), OmegaConf.to_container(cfg, resolve=True)
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(_without_resolvers(plain, values))))


def _without_resolvers(plain: Any, values: Any) -> Any:
    """A plain config; texts that a run may not save are replaced by their values."""
    if isinstance(plain, dict):
        return {key: _without_resolvers(child, values[key]) for key, child in plain.items()}
    if isinstance(plain, list):
        return list(map(_without_resolvers, plain, values))
    return plain if received_config.reads_only_keys(str(plain)) else values


def check_unchanged(folder: Path, cfg: DictConfig) -> None:
    """Check that a resumed run keeps the keys that determine its weights.

    A change of one of them would silently have no effect.

    Raises:
        UserError: one of them differs from the run's config.yaml.
    """
    free = set(FREE)
    if cfg.task != "fit":
        free |= {"batch_size", "loss.teacher", "relabel"}
    saved = flat(read(folder))
    now = flat(OmegaConf.to_container(cfg))
    if saved.get("datamodule.relabel") == KEPT_RELABEL and _is_copy(now["datamodule.relabel"], folder / "relabel.csv"):
        free.add("relabel")  # a restarted job repeats its command
    for key in sorted(saved.keys() | now.keys()):
        section, _, rest = key.partition(".")
        kept = section in KEPT or key.startswith(KEPT_PARTS)
        is_free = rest in free or (cfg.task != "fit" and key.startswith("lit_module.metrics."))
        if kept and not is_free and saved.get(key) != now.get(key):
            raise UserError(
                f"{key}: this run has {saved.get(key)}, not {now.get(key)}, and a resumed run keeps it; "
                "leave it out, or start a new run without run=…"
            )


def _is_copy(path: str | None, kept: Path) -> bool:
    if not path or not Path(path).is_file() or not kept.is_file():
        return False
    return Path(path).read_bytes() == kept.read_bytes()


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts → one dict with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    flattened: dict[str, Any] = {}
    for name, child in node.items():
        flattened |= flat(child, f"{prefix}.{name}".lstrip("."))
    return flattened


def resolved(node: DictConfig) -> DictConfig:
    """A copy without interpolations, so that what is instantiated is what was checked."""
    return OmegaConf.create(OmegaConf.to_container(node, resolve=True))  # type: ignore[return-value]


def without_pretrained_weights(cfg: DictConfig) -> DictConfig:
    """A copy whose network loads no pretrained weights: a checkpoint replaces them, and their file may be gone.

    It is resolved first, so that no interpolation of the weights' name gives another value than the one checked.
    """
    copy = resolved(cfg)
    if "weights" in copy.lit_module.net:
        copy.lit_module.net.weights = ""
    return copy


def image_shape(cfg: DictConfig, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Parameters by which images are read in the shape that a trained network takes."""
    if "image_size" not in cfg.datamodule:
        return {}
    channels, *size = input_shape
    return {"channels": channels, "image_size": size}
