"""Class folders of array files are read unchanged, from memory or disk, and errors name a file or key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch

from conf.errors import UserError
from datamodules import array_folder
from datamodules.array_folder import ArrayFolderDataModule
from datamodules.storage import worker_pool
from datamodules.storage.inputs import InMemory
from tests.conftest import PLAIN, TINY, inputs_of

FORM: dict[str, Any] = {"axes": None, "pages": "depth", "window": None, "size": None}


def module_of(root: Path, **changes: Any) -> ArrayFolderDataModule:
    parameters = {key: PLAIN[key] for key in ArrayFolderDataModule.__dataclass_fields__ if key in PLAIN}
    return ArrayFolderDataModule(**parameters | FORM | changes, root=str(root))


def error_of(root: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        module_of(root, **changes).setup()
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return str(caught.value)


def noise(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, shape).astype(dtype)


def write(root: Path, *shape: int, count: int = 8, dtype: str = "float32") -> Path:
    """`count` arrays of each of two classes."""
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            np.save(root / name / f"{i}.npy", noise(100 * label + i, *shape, dtype=dtype))
    return root


def contents(module: ArrayFolderDataModule, root: Path) -> None:
    """Asserts that every sample equals its file."""
    for split in ("train", "val", "test"):
        samples = inputs_of(module, split).numpy()
        files = module.files(split)
        assert len(samples) == len(files) > 0
        for sample, file, label in zip(samples, files, module.split(split).labels.tolist(), strict=True):
            assert np.array_equal(sample, np.load(root / file))
            assert f"/{module.class_names[label]}/" in f"/{file}"


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_samples_equal_their_files(tmp_path: Path, dtype: str) -> None:
    root = write(tmp_path / "data", 3, 6, 5, dtype=dtype)
    module = module_of(root)
    module.setup()
    assert module.input_shape == (3, 6, 5) and module.class_names == ["ant", "bee"]
    assert module.layout == "class folders of .npy files"
    assert inputs_of(module, "val").dtype == getattr(torch, dtype)
    contents(module, root)


def test_split_folders_are_kept(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path / "data" / "inner" / split, 2, 4, 4, count=3)
    (tmp_path / "data" / "inner" / "train" / "ant" / "notes.txt").write_text("no array")
    module = module_of(tmp_path / "data")
    module.setup()
    assert module.files("val")[:2] == ["inner/valid/ant/0.npy", "inner/valid/ant/1.npy"]
    assert "splits: train, val (valid), test; not used: inner/train/ant/notes.txt" in module.layout
    contents(module, tmp_path / "data")


@pytest.mark.parametrize("processes", [False, True])
def test_arrays_beyond_memory_are_read_when_needed(tmp_path: Path, monkeypatch: Any, processes: bool) -> None:
    root = write(tmp_path / "data", 2, 6, 5)
    in_memory = module_of(root)
    in_memory.setup()
    assert isinstance(in_memory.split("train").inputs, InMemory)
    needed = 16 * 2 * 6 * 5 * 4
    monkeypatch.setattr(array_folder, "free_memory", lambda: 2 * needed - 1)
    monkeypatch.setattr(array_folder, "TASK_BYTES", 3 * 2 * 6 * 5 * 4)  # three files in a task
    if processes:
        monkeypatch.setattr(worker_pool, "MIN_FILES_FOR_PROCESSES", 2)
    streamed = module_of(root, num_workers=2)
    streamed.setup()
    source = streamed.split("train").inputs
    assert isinstance(source, array_folder.ArrayFiles) and source.workers.count == (2 if processes else 1)
    contents(streamed, root)
    for split in ("train", "val", "test"):
        assert torch.equal(inputs_of(streamed, split), inputs_of(in_memory, split))
        assert np.array_equal(streamed.digests[split], in_memory.digests[split])
    assert np.allclose(streamed.mean_std, in_memory.mean_std)
    monkeypatch.setattr(array_folder, "free_memory", lambda: 2 * needed)
    enough = module_of(root)
    enough.setup()
    assert isinstance(enough.split("train").inputs, InMemory)
    source.workers.close()


@pytest.mark.parametrize("change", ["damaged", "rewritten", "other_shape"])
def test_files_that_change_during_a_run_are_named(tmp_path: Path, monkeypatch: Any, change: str) -> None:
    root = write(tmp_path / "data", 2, 6, 5)
    monkeypatch.setattr(array_folder, "free_memory", lambda: 0)
    module = module_of(root)
    module.setup()
    file = module.files("train")[3]
    if change == "damaged":
        (root / file).write_bytes(b"no array")
        line = f"{file}: the magic string is not correct"
    elif change == "rewritten":
        np.save(root / file, noise(7, 2, 6, 5))
        line = f"{file}: the file changed during the run; repair the file, then resume by run=…"
    else:
        np.save(root / file, noise(7, 2, 6, 4))
        line = f"{file}: has the shape (2, 6, 4), but "
    with pytest.raises(UserError) as caught:
        inputs_of(module, "train")
    assert str(caught.value).startswith(line)


def test_different_shapes_are_refused_or_resized(tmp_path: Path) -> None:
    root = write(tmp_path / "data", 6, 5, count=8)
    np.save(root / "bee" / "3.npy", noise(9, 12, 10))
    expected = "bee/3.npy: has the shape (1, 12, 10), but ant/0.npy (1, 6, 5); set datamodule.size=[6,5] to resize all"
    assert error_of(root) == expected
    module = module_of(root, size=[6, 5])
    module.setup()
    files = [file for split in ("train", "val", "test") for file in module.files(split)]
    samples = torch.cat([inputs_of(module, split) for split in ("train", "val", "test")]).numpy()
    halved = noise(9, 12, 10).reshape(6, 2, 5, 2).mean((1, 3))
    assert np.allclose(samples[files.index("bee/3.npy")][0], halved)
    np.save(root / "bee" / "3.npy", noise(9, 2, 6, 5))
    line = "bee/3.npy: has the shape (2, 6, 5), but ant/0.npy (1, 6, 5); convert them to the same axes and channels"
    assert error_of(root) == error_of(root, size=[6, 5]) == line


def test_mixed_types_are_refused_or_windowed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", 6, 5)
    np.save(root / "bee" / "3.npy", noise(9, 6, 5, dtype="uint8"))
    assert error_of(root).startswith("bee/3.npy: is uint8, which is scaled to [0, 1], but ant/0.npy is not; set ")
    module = module_of(root, window=[0, 200])
    module.setup()
    samples = torch.cat([inputs_of(module, split) for split in ("train", "val", "test")])
    assert samples.dtype == torch.float32 and 0 <= samples.min() < samples.max() <= 1
    root = write(tmp_path / "other", 6, 5, dtype="uint8")
    np.save(root / "bee" / "3.npy", noise(9, 6, 5))
    assert error_of(root).startswith("ant/0.npy: is uint8, which is scaled to [0, 1], but bee/3.npy is not; set ")


def test_unreadable_files_raise_or_are_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "data", 2, 9)
    (root / "ant" / "0.npy").write_bytes(b"")
    np.save(root / "bee" / "3.npy", np.full((2, 9), np.nan))
    named = "ant/0.npy (the file is empty), bee/3.npy (contains NaN or inf)"
    assert error_of(root, axes="CL").startswith(f"{named}: 2 samples cannot be read; repair or remove them")
    module = module_of(root, axes="CL", on_error="skip")
    module.setup()
    files = [file for split in ("train", "val", "test") for file in module.files(split)]
    assert len(files) == 14 and not {"ant/0.npy", "bee/3.npy"} & set(files)
    assert f"skipped {named}: 2 of 16 samples" in capfd.readouterr().err
    contents(module, root)
    for file in root.rglob("*.npy"):
        file.write_text("no array")
    line = "ant/0.npy: the magic string is not correct; expected b'\\x93NUMPY', got b'no arr'; all 16 files are unread"
    assert error_of(root, on_error="skip").startswith(line)


def test_duplicates_across_splits_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        write(tmp_path / split, 4, 4, count=4)
    for i in range(1, 4):
        for name in ("ant", "bee"):
            np.save(tmp_path / "test" / name / f"{i}.npy", noise(1000 + i + len(name) * ord(name[0]), 4, 4))
    module_of(tmp_path).setup()
    err = capfd.readouterr().err
    assert "2 of 8 of test in train, bit for bit: " in err and "train/ant/0.npy = test/ant/0.npy" in err


def test_wrong_keys_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "data", 6, 5)
    for changes, line in (
        ({"axes": "HWX"}, "datamodule.axes: HWX are not axes; give L, HW or DHW"),
        ({"axes": "CC"}, "datamodule.axes: CC are not axes; "),
        ({"window": [400, -1000]}, "datamodule.window: [400, -1000] is not a window; give [low, high]"),
        ({"window": [1]}, "datamodule.window: [1] is not a window; "),
        ({"window": [0, np.inf]}, "datamodule.window: [0, inf] is not a window; "),
        ({"size": [0, 4]}, "datamodule.size: [0, 4] is not a size; "),
        ({"size": []}, "datamodule.size: [] is not a size; "),
        ({"size": [4]}, "datamodule.size: [4] does not fit ant/0.npy of 6×5; give one number for each axis"),
    ):
        assert error_of(root, **changes).startswith(line)


def test_wrong_roots_are_named(tmp_path: Path) -> None:
    assert "gone is not a folder; give a folder of class folders" in error_of(tmp_path / "gone")
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "images" / "ant" / "a.png").write_bytes(b"")
    assert "images holds no files of the types .npy, .npz, .tif" in error_of(tmp_path / "images")
    np.save(tmp_path / "images" / "ant" / "a.npy", noise(0, 4))
    assert "images holds 1 class folder; put each class into its own" in error_of(tmp_path / "images")


def write_volume(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


@pytest.mark.parametrize(
    ("shape", "suffix", "save", "choices"),
    [
        ((40,), "npy", np.save, ()),
        ((5, 12, 12), "tif", tifffile.imwrite, ("datamodule.pages=channels", "datamodule.window=[0,1000]")),
        ((8, 8, 8), "nii.gz", write_volume, ("datamodule.size=[6,6,6]",)),
    ],
    ids=["series", "images", "volumes"],
)
def test_run_trains_on_files(
    run: Callable[..., Path], tmp_path: Path, shape: Any, suffix: str, save: Callable[..., Any], choices: Any
) -> None:
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(24):
            values = noise(100 * label + i, *shape) + 400 * label
            save(tmp_path / "data" / name / f"{i}.{suffix}", values.astype("float32"))
    options = ("datamodule=array_folder", f"datamodule.root={tmp_path / 'data'}", *choices)
    learning = ("datamodule.batch_size=8", "trainer.max_epochs=4", "lit_module.optimizer.lr=0.01")
    folder = run(*TINY, *options, *learning)
    assert json.loads((folder / "summary.json").read_text())["test/acc"] == 1
    if suffix == "npy":
        run(f"run={folder}", "task=test", f"datamodule.root={tmp_path / 'data'}")
        run(*options, "task=inspect", f"output={tmp_path / 'report'}")
        report = json.loads((tmp_path / "report" / "inspection.json").read_text())
        assert report["input"]["shape"] == [1, 40] and report["layout"] == "class folders of .npy files"
