"""Error lines for keys that do not exist: renamed, at another place, or misspelt."""

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig

from conf import renamed
from conf.errors import nearest

CONF = Path(__file__).parent
# Names that other programs use, and ours.
SYNONYMS = {
    "arch": "net",
    "architecture": "net",
    "augmentation": "augment",
    "augmentations": "augment",
    "backbone": "net",
    "bs": "batch_size",
    "criterion": "loss",
    "data": "datamodule",
    "data_dir": "root",
    "data_path": "root",
    "gpus": "devices",
    "image_sz": "image_size",
    "img_size": "image_size",
    "imgsz": "image_size",
    "learning_rate": "lr",
    "lr_scheduler": "scheduler",
    "model": "net",
    "network": "net",
    "optim": "optimizer",
    "wd": "weight_decay",
    "workers": "num_workers",
}
# Names of what several keys set, or another config group's, and what to write.
HABITS = {
    "checkpoint": "init_from=FILE for its weights, or run=DIR to resume a run",
    "cpu": "devices=cpu",
    "cuda": "devices=gpu",
    "dataset": "datamodule=…, or datamodule.dataset=… with datamodule=torchvision",
    "device": "devices=cpu or devices=gpu",
    "early_stopping": "callbacks=[default,early_stopping]",
    "ema": "callbacks=[default,ema]",
    "epoch": "epochs=…",
    "exp_name": "name=…",
    "folder": "datamodule.root=… with +experiment=image_folder",
    "gpu": "devices=gpu",
    "log_dir": "logs_dir=…",
    "max_epochs": "epochs=…",
    "momentum": "lit_module/optimizer=sgd lit_module.optimizer.momentum=…",
    "n_epochs": "epochs=…",
    "num_epochs": "epochs=…",
    "out_dir": "run_dir=…",
    "output_dir": "run_dir=…",
    "pretrained": "lit_module/net=efficientnet_lite, or lit_module.net.weights=library of another pretrained net",
    "resume": "run=DIR, the folder of the run",
    "root": "datamodule.root=… with +experiment=image_folder",
    "save_dir": "run_dir=…",
}


def unknown_key(key: str, siblings: Collection[str], cfg: DictConfig | None = None) -> str:
    """The error line for a key that does not exist.

    Args:
        key: dotted.
        siblings: the names that exist in its place.
        cfg: the whole config, to find a root key's name elsewhere.
    """
    new_key = renamed_key(key, siblings)
    if new_key:
        return f"{key}: is called {new_key} now; rename it"
    if "." not in key and cfg is not None:
        if key in HABITS:
            return f"{key}: no such key; write {HABITS[key]}"
        places = _places(cfg)
        name = SYNONYMS.get(key, key)
        if name in places:
            return f"{key}: no such key; write {' or '.join(map(_override, places[name]))}"
        close = get_close_matches(key, places, n=1)
        if close and not get_close_matches(key, siblings):
            return f"{key}: no such key; did you mean {' or '.join(places[close[0]])}?"
    name = key.rpartition(".")[2]
    name = SYNONYMS.get(name, name)
    return f"{key}: no such key; {nearest(name, siblings) if siblings else f'add it by +{key}=…'}"


def renamed_key(key: str, siblings: Collection[str]) -> str | None:
    """The present name of a key of an earlier version."""
    new_key = renamed.KEYS.get(key)
    return new_key if new_key and new_key.rpartition(".")[2] in siblings else None


def _places(cfg: DictConfig) -> dict[str, list[str]]:
    """Dotted paths of a config below its root, by their last name."""
    places: dict[str, list[str]] = {}
    for path in _paths(cfg, ""):
        if "." in path and not path.startswith("hydra."):
            places.setdefault(path.rpartition(".")[2], []).append(path)
    return places


def _paths(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        path = prefix + key
        if not key.startswith("_"):
            yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield from _paths(child, f"{path}.")


def _override(path: str) -> str:
    """How a command line sets a key, or chooses an option of a config group."""
    group = path.replace(".", "/")
    return f"{group}=…" if (CONF / group).is_dir() else f"{path}=…"
