"""On-disk cache of the features of a frozen body, among the entries of `storage.cache`."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from conf.files import file_lock, sync
from datamodules.storage.cache import new_entry


class FeatureStore:
    """A cache entry of features: features.npy and store.json.

    Args:
        cache_dir: folder of all entries.
        key: unique to what computes the features.
        samples: uint64 `[N]`: the digest of each sample.
    """

    def __init__(self, cache_dir: Path, key: str, samples: np.ndarray) -> None:
        self.cache_dir = cache_dir
        digest = hashlib.blake2b(f"1 {torch.__version__} {key}\n".encode() + samples.tobytes(), digest_size=16)
        self.name = f"features-{digest.hexdigest()}"

    def load(self, views: int, samples: int) -> np.ndarray | None:
        """The saved features `[views, samples, F]`; None if they are missing or corrupt."""
        folder = self.cache_dir / self.name
        try:
            with open(folder / "features.npy", "rb") as file:
                features: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            saved = json.loads((folder / "store.json").read_text(encoding="utf-8"))["digest"]
            os.utime(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return None
        return features if features.shape[:2] == (views, samples) and saved == _digest(features) else None

    def save(self, features: np.ndarray) -> None:
        """Saves features, unless another process did so in the meantime, or the folder is not writable or full."""
        with suppress(OSError):
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with file_lock(self.cache_dir / f"{self.name}.lock"):
                if self.load(*features.shape[:2]) is None:
                    with new_entry(self.cache_dir, self.name) as folder:
                        self._write(folder, features)

    @staticmethod
    def _write(folder: Path, features: np.ndarray) -> None:
        np.save(folder / "features.npy", features)
        (folder / "store.json").write_text(json.dumps({"digest": _digest(features)}), encoding="utf-8")
        for name in ("features.npy", "store.json"):
            sync(folder / name)


def _digest(features: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(features).data, digest_size=16).hexdigest()
