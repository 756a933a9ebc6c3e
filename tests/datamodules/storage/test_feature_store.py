"""Saved features are those that were saved, or none."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.storage.feature_store import FeatureStore

SAMPLES = np.arange(5, dtype=np.uint64)
FEATURES = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)


def saved(folder: Path) -> FeatureStore:
    store = FeatureStore(folder, "body", SAMPLES)
    store.save(FEATURES)
    return store


def test_features_are_loaded_by_body_and_samples(tmp_path: Path) -> None:
    loaded = saved(tmp_path).load(2, 5)
    assert loaded is not None and np.array_equal(loaded, FEATURES)
    assert FeatureStore(tmp_path, "another", SAMPLES).load(2, 5) is None
    assert FeatureStore(tmp_path, "body", SAMPLES[::-1]).load(2, 5) is None
    assert saved(tmp_path).load(1, 5) is None, "of another number of views"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"], ids=["empty", "zip", "cut off"])
def test_damaged_file_is_computed_anew(tmp_path: Path, content: bytes) -> None:
    store = saved(tmp_path)
    (tmp_path / store.name / "features.npy").write_bytes(content)
    assert store.load(2, 5) is None
    store.save(FEATURES)
    assert store.load(2, 5) is not None


def test_changed_bit_is_noticed(tmp_path: Path) -> None:
    store = saved(tmp_path)
    file = tmp_path / store.name / "features.npy"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert store.load(2, 5) is None


def test_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FeatureStore(tmp_path / "file" / "cache", "body", SAMPLES)
    store.save(FEATURES)
    assert store.load(2, 5) is None
