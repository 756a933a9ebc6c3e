"""Arrays are read unchanged, from an .npz file or memory-mapped, and errors name the key."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.errors import UserError
from datamodules.arrays import ArraysDataModule
from datamodules.loader import to_float
from datamodules.storage import memory
from tests.conftest import DRAWN, PLAIN, TINY, inputs_of

LABELS = np.arange(24) % 3


def module_of(root: Path, **changes: Any) -> ArraysDataModule:
    parameters = {key: PLAIN[key] for key in ArraysDataModule.__dataclass_fields__ if key in PLAIN}
    return ArraysDataModule(**parameters | changes, root=str(root))


def noise(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).normal(100, 30, shape)).astype(dtype)


def save(root: Path, **arrays: Any) -> Path:
    """Writes an .npz file, or a folder of .npy files if `root` has no such suffix."""
    if root.suffix == ".npz":
        np.savez(root, **arrays)
    else:
        root.mkdir()
        for key, array in arrays.items():
            np.save(root / f"{key}.npy", array)
    return root


def positions(module: ArraysDataModule, split: str) -> list[int]:
    return [int(file.removeprefix("inputs[").removesuffix("]")) for file in module.files(split)]


@pytest.mark.parametrize("name", ["a.npz", "folder"])
@pytest.mark.parametrize("shape", [(2, 9), (3, 6, 5), (1, 4, 5, 6)], ids=len)
@pytest.mark.parametrize("dtype", ["uint8", "float32", ">f8", "int16", "float16", "bool"])
def test_samples_equal_the_array(tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    inputs = noise(24, *shape, dtype=dtype)
    module = module_of(save(tmp_path / name, inputs=inputs, labels=LABELS))
    module.setup()
    assert module.input_shape == shape and module.class_names == ["0", "1", "2"]
    seen = []
    for split in ("train", "val", "test"):
        rows = positions(module, split)
        samples = inputs_of(module, split).numpy()
        assert samples.dtype == (np.uint8 if dtype == "uint8" else np.float32)
        assert np.array_equal(samples, inputs[rows].astype(samples.dtype))
        assert module.split(split).labels.tolist() == LABELS[rows].tolist()
        seen += rows
    assert sorted(seen) == list(range(24))


def test_mean_and_std_are_of_the_network_inputs(tmp_path: Path) -> None:
    for dtype, scale in (("float64", 1), ("uint8", 255)):
        inputs = noise(24, 2, 9, dtype=dtype)
        module = module_of(save(tmp_path / f"{dtype}.npz", inputs=inputs, labels=LABELS))
        module.setup()
        train = inputs[positions(module, "train")] / scale
        mean, std = module.mean_std
        assert np.allclose(mean, train.mean((0, 2))) and np.allclose(std, train.std((0, 2)))
        raw, scaled = next(module.batches("val"))
        assert torch.equal(scaled, to_float(raw)) and scaled.dtype == torch.float32


def test_folder_is_memory_mapped(tmp_path: Path) -> None:
    module = module_of(save(tmp_path / "folder", inputs=noise(24, 2, 9), labels=LABELS))
    module.read()
    assert isinstance(module._inputs, np.memmap) and not module._inputs.flags.writeable


@pytest.mark.parametrize("given", [None, ["cat", "ant", "bee"]])
def test_string_labels_are_class_names(tmp_path: Path, given: list[str] | None) -> None:
    labels = np.array(["cat", "bee", "ant"])[LABELS]
    optional = {} if given is None else {"class_names": np.array(given)}
    module = module_of(save(tmp_path / "a.npz", inputs=noise(24, 2, 9), labels=labels, **optional))
    module.setup()
    assert module.class_names == (given or ["ant", "bee", "cat"])
    names = [module.class_names[label] for label in module.split("val").labels.tolist()]
    assert names == labels[positions(module, "val")].tolist()


def test_splits_and_groups_are_kept(tmp_path: Path) -> None:
    split = np.array(["train", "train", "train", "valid", "valid", "valid"] * 4)
    group = np.arange(24) // 3
    root = save(tmp_path / "a.npz", inputs=noise(24, 2, 9), labels=LABELS, split=split, group=group)
    module = module_of(root)
    module.setup()
    assert positions(module, "val") == np.flatnonzero(split == "valid").tolist()
    assert not set(group[positions(module, "train")]) & set(group[positions(module, "test")])


def test_duplicates_across_splits_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = noise(24, 2, 9)
    inputs[20] = inputs[3]
    split = np.array(["train"] * 18 + ["val"] * 6)
    module_of(save(tmp_path / "a.npz", inputs=inputs, labels=LABELS, split=split)).setup()
    counts = "1 of 12 samples of train are in val too, and 1 of 6 of val in train"
    assert f"warning: {counts}, bit for bit: inputs[3] = inputs[20]" in capfd.readouterr().err


def test_duplicates_are_counted_by_sample(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    split = np.array(["train"] * 12 + ["val"] * 6 + ["test"] * 6)
    inputs = noise(24, 2, 9)
    inputs[:10] = inputs[12:15] = inputs[0]
    module_of(save(tmp_path / "a.npz", inputs=inputs, labels=LABELS, split=split)).setup()
    assert "warning: 10 of 12 samples of train are in val too, and 3 of 6 of val in train, " in capfd.readouterr().err


def with_nan(dtype: str = "float32") -> np.ndarray:
    inputs = noise(24, 2, 9, dtype=dtype)
    inputs[7, 1, 3] = np.nan if dtype == "float32" else 1e300
    return inputs


VALID = {"inputs": noise(24, 2, 9), "labels": LABELS}
HALVES = np.array(["train", "test"] * 12)
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no_labels": ({"inputs": VALID["inputs"]}, ": holds no 'labels'; add it"),
    "other_key": (VALID | {"groups": LABELS}, ": 'groups' is not a known key; did you mean 'group'?"),
    "no_channels": (VALID | {"inputs": noise(24, 9)}, ": inputs have the shape (24, 9); give [N, C, L], "),
    "no_samples": ({"inputs": noise(0, 2, 9), "labels": LABELS[:0]}, ": inputs have the shape (0, 2, 9) and are empty"),
    "complex": (VALID | {"inputs": noise(24, 2, 9) * 1j}, ": inputs are of type complex64; give numbers"),
    "short_labels": (VALID | {"labels": LABELS[:20]}, ": labels have the shape (20,), inputs (24, 2, 9); give one for"),
    "cube": (VALID | {"labels": np.zeros((24, 2, 2))}, ": labels have the shape (24, 2, 2), "),
    "matrix": (VALID | {"labels": np.full((24, 2), 2)}, ": labels [24, 2] are not all 0 or 1; give 1 for each label"),
    "names": (
        VALID | {"labels": np.eye(24), "class_names": np.array(["a", "b"])},
        ": 2 class_names, but labels [24, 24]",
    ),
    "short_group": (VALID | {"group": LABELS[:1]}, ": group have the shape (1,), "),
    "fractions": (VALID | {"labels": LABELS / 2}, ": labels are of type float64; give integers from 0"),
    "negative": (VALID | {"labels": LABELS - 1}, ": labels[0] is -1; number the classes from 0"),
    "from_one": (VALID | {"labels": LABELS + 1}, ": labels: 0 does not occur, but 3 does; "),
    "gap": (VALID | {"labels": np.where(LABELS == 2, 255, LABELS)}, ": labels: 2 does not occur, but 255 does; "),
    "too_large": (VALID | {"class_names": np.array(["a", "b"])}, ": labels[2] is 2; number the classes from 0"),
    "other_name": (
        VALID | {"labels": np.array(["ant", "bee"])[LABELS % 2], "class_names": np.array(["ant", "bees"])},
        ": labels: 'bee' is not among class_names; did you mean 'bees'?",
    ),
    "names_twice": (VALID | {"class_names": np.array(["a", "b", "a"])}, ": class_names must be a list of distinct"),
    "other_split": (VALID | {"split": np.array(["train", "tset"] * 12)}, ": split[1] is 'tset'; did you mean 'test'?"),
    "split_numbers": (VALID | {"split": LABELS}, ": split[0] is 0; choose from "),
    "objects": (VALID | {"labels": LABELS.astype(object)}, ": labels: cannot be read (Object arrays cannot be loaded"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_malformed_arrays_are_named(tmp_path: Path, name: str) -> None:
    arrays, line = MISTAKES[name]
    root = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as caught:
        module_of(root).setup()
    assert str(caught.value).startswith(f"{root}{line}") and "; " in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        (VALID | {"inputs": with_nan()}, "inputs[7] (contains NaN or inf): 1 sample cannot be read"),
        (VALID | {"inputs": with_nan("float64")}, "inputs[7] (contains NaN or inf): 1 sample cannot"),
        (VALID | {"labels": LABELS * 0}, "datamodule: holds only the class 0"),
        (VALID | {"split": HALVES, "group": LABELS}, "group 0: is in train and in test"),
        (VALID | {"split": np.where(LABELS, "train", "test")}, "class 0: inputs[0] is in test, but none in train"),
    ],
    ids=["nan", "too_large_for_float32", "one_class", "parted_group", "class_not_learned"],
)
def test_unusable_samples_are_rejected(tmp_path: Path, arrays: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        module_of(save(tmp_path / "a.npz", **arrays)).setup()
    assert str(caught.value).startswith(line)


def test_sample_that_is_not_finite_is_skipped_if_asked(tmp_path: Path) -> None:
    module = module_of(save(tmp_path / "a.npz", **VALID | {"inputs": with_nan()}), on_error="skip")
    module.setup()
    seen = {position for split in ("train", "val", "test") for position in positions(module, split)}
    assert seen == set(range(24)) - {7}


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.npz", **VALID).read_bytes()
    array = io.BytesIO()
    np.save(array, LABELS)
    save(tmp_path / "folder", **VALID | {"labels": LABELS.astype(object)})
    for root, content, line in (
        (tmp_path / "half.npz", whole[: len(whole) // 2], "half.npz: cannot be read ("),
        (tmp_path / "empty.npz", b"", "empty.npz: cannot be read ("),
        (tmp_path / "text.npz", b"no array", "text.npz: cannot be read ("),
        (tmp_path / "one.npz", array.getvalue(), "one.npz: cannot be read ("),
        (tmp_path / "gone.npz", None, "gone.npz: cannot be read (no such file or directory)"),
        (tmp_path / "folder", None, "folder/labels.npy: cannot be read ("),
    ):
        if content is not None:
            root.write_bytes(content)
        with pytest.raises(UserError) as caught:
            module_of(root).setup()
        assert str(caught.value).startswith(f"{tmp_path}/{line}")
    for name in ("a.npy", "gone"):
        with pytest.raises(UserError, match=r"^datamodule.root: .* is neither an .npz file nor a folder"):
            module_of(tmp_path / name).setup()


def test_every_task_accepts_a_run_on_arrays(
    run: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(60) % 2
    inputs = noise(60, 2, 16) + 60 * labels[:, None, None]
    root = save(tmp_path / "series", inputs=inputs, labels=labels)
    choices = ("datamodule=arrays", "datamodule.batch_size=8", "lit_module.optimizer.lr=0.01")
    choices += ("++callbacks.dashboard=null", "trainer.max_epochs=4")
    folder = run(*DRAWN, *choices, f"datamodule.root={root}")
    assert json.loads((folder / "summary.json").read_text())["test/acc"] == 1
    with open(folder / "predictions.csv", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} <= {f"inputs[{i}]" for i in range(60)}
    other = save(tmp_path / "other.npz", inputs=inputs[:9], labels=labels[:9], split=np.array(["test"] * 9))
    run(f"run={folder}", "task=test", f"datamodule.root={other}")
    assert "on 9 samples" in capfd.readouterr().out
    other = save(tmp_path / "val.npz", inputs=inputs[:9], labels=labels[:9], split=np.array(["val"] * 9))
    with pytest.raises(UserError, match=r"^datamodule.root: holds neither a training nor a test split; "):
        run(f"run={folder}", "task=test", f"datamodule.root={other}")
    run(f"run={folder}", "task=export", "format=torch_export", f"output={tmp_path / 'export'}")
    assert "validation samples" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"^input: .* was trained on arrays, not images; "):
        run(f"run={folder}", "task=predict", f"input={tmp_path / 'export' / 'example_torch_export.py'}")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kinds"), [("uint8", ["uint8", "float"]), ("float32", ["uint8"])])
def test_example_of_an_export_gives_the_same_probabilities(
    run: Callable[..., Path], tmp_path: Path, dtype: str, kinds: list[str]
) -> None:
    inputs = noise(60, 2, 16, dtype=dtype)
    root = save(tmp_path / "a.npz", inputs=inputs, labels=np.arange(60) % 2)
    choices = (*DRAWN, "++callbacks.dashboard=null", "datamodule=arrays", "trainer.max_epochs=1")
    folder = run(*choices, f"datamodule.root={root}")
    with open(folder / "predictions.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    np.save(tmp_path / "one.npy", inputs[int(row["file"].removeprefix("inputs[").removesuffix("]"))])
    for kind in kinds:
        export = ("task=export", "format=torch_export", f"input={kind}", f"output={tmp_path / kind}")
        run(f"run={folder}", *export)
        example = [sys.executable, "-I", "example_torch_export.py", str(tmp_path / "one.npy")]
        process = subprocess.run(example, cwd=tmp_path / kind, capture_output=True, text=True, check=True, timeout=120)
        probabilities = json.loads(process.stdout.replace("'", '"'))
        assert probabilities == pytest.approx({name: float(row[f"p/{name}"]) for name in ("0", "1")}, abs=1e-5)
    root.unlink()
    with pytest.raises(UserError, match=r"a\.npz: cannot be read"):  # an export does not replace them by noise
        run(f"run={folder}", *export)


@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5, 4)], ids=["images", "volumes"])
def test_run_trains_on_uint8_of_any_dimension(run: Callable[..., Path], tmp_path: Path, shape: Any) -> None:
    inputs = noise(24, *shape, dtype="uint8")
    root = save(tmp_path / "a.npz", inputs=inputs, labels=LABELS)
    choices = ("datamodule=arrays", "datamodule.val_fraction=0.3", "datamodule.test_fraction=0.3")
    assert (run(*TINY, *choices, f"datamodule.root={root}") / "summary.json").is_file()


def test_arrays_that_do_not_fit_into_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", inputs=np.zeros((24, 1, 1000, 3000), np.uint8), labels=LABELS)
    monkeypatch.setattr(memory, "free_memory", lambda: 2**26)
    line = (
        f"{tmp_path / 'a.npz'}: cannot be read (needs 0.1 GiB of memory, of which 0.1 are free); save plain numbers and"
    )
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        module_of(tmp_path / "a.npz").setup()
