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
    "architecture": "net",
    "augmentation": "augment",
    "augmentations": "augment",
    "criterion": "loss",
    "data": "datamodule",
    "data_dir": "root",
    "gpus": "devices",
    "img_size": "image_size",
    "learning_rate": "lr",
    "lr_scheduler": "scheduler",
    "model": "net",
    "network": "net",
    "workers": "num_workers",
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
    name = SYNONYMS.get(key, key)
    if "." not in key and cfg is not None:
        places = _places(cfg)
        if name in places:
            return f"{key}: no such key; write {' or '.join(map(_override, places[name]))}"
        close = get_close_matches(key, places, n=1)
        if close and not get_close_matches(key, siblings):
            return f"{key}: no such key; did you mean {' or '.join(places[close[0]])}?"
    name = key.rpartition(".")[2]
    return f"{key}: no such key; {nearest(name, siblings) if siblings else f'add it by +{key}=…'}"


def renamed_key(key: str, siblings: Collection[str]) -> str | None:
    """The present name of a key of an earlier version."""
    new_key = renamed.KEYS.get(key)
    return new_key if new_key and new_key.rpartition(".")[2] in siblings else None


def _places(cfg: DictConfig) -> dict[str, list[str]]:
    """Dotted paths of a config below its root, by their last name."""
    places: dict[str, list[str]] = {}
    for path in _paths(cfg, ""):
        if "." in path:
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
