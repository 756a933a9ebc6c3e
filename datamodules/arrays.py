"""NumPy arrays with labels: an .npz file or a folder of .npy files."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.errors import UserError, nearest
from datamodules.datamodule import DataModule
from datamodules.splits import SPLIT_WORDS, Samples, by_split
from datamodules.storage.array_file import open_npz
from datamodules.storage.decode import digests
from datamodules.storage.image_header import reason
from datamodules.storage.inputs import Loaded
from datamodules.storage.stored_file import size_of
from datamodules.storage.worker_pool import progress

KEYS = ("inputs", "labels", "class_names", "split", "group")
# What NumPy raises for files that it cannot read, or that hold Python objects.
DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
# Bytes that are checked at a time.
PART = 2**24


class Rows:
    """Rows of an array in memory or memory-mapped. uint8 stays; other types become float32 when read.

    Args:
        array: `[*, C, *spatial]`.
        rows: int64 `[N]`.
    """

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.dtype = np.dtype(np.uint8 if array.dtype == np.uint8 else np.float32)
        self.shape: tuple[int, ...] = array.shape[1:]
        self.sample_bytes = int(np.prod(self.shape)) * self.dtype.itemsize

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for positions in batches:
            with np.errstate(over="ignore"):  # becomes inf, which `load` reports
                samples = np.asarray(self.array[self.rows[positions]], self.dtype)
            yield torch.from_numpy(samples)


@dataclass(kw_only=True, eq=False, repr=False)
class ArraysDataModule(DataModule):
    """An .npz file of `np.savez`, or a folder with one .npy file per key, which is memory-mapped and may exceed memory.

    | key           | content                                                                           |
    |---------------|-----------------------------------------------------------------------------------|
    | `inputs`      | `[N, C, L]`, `[N, C, H, W]` or `[N, C, D, H, W]`: uint8, scaled to [0, 1], or other   |
    |               | numbers, not scaled                                                               |
    | `labels`      | `[N]`: integers from 0, or strings; or 0/1 `[N, num_classes]`: several labels a sample |
    | `class_names` | optional: strings in the order of the labels; default: the sorted labels          |
    | `split`       | optional: `[N]`, train, val or test                                               |
    | `group`       | optional: `[N]`; samples of one group stay in one split                           |

    Files that hold Python objects are rejected, so nothing in a file is executed.

    Args:
        root: the file or the folder.
    """

    root: str

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        root = Path(self.root).expanduser()
        arrays = _load(root)
        for key in arrays:
            if key not in KEYS:
                raise UserError(f"{root}: '{key}' is not a known key; {nearest(key, KEYS)}")
        for key in ("inputs", "labels"):
            if key not in arrays:
                raise UserError(f"{root}: holds no '{key}'; add it: {', '.join(KEYS[:2])} are needed")
        inputs = arrays["inputs"]
        _check_inputs(root, inputs)
        for key in ("labels", "split", "group"):
            num_axes = 2 if key == "labels" and arrays[key].ndim == 2 else 1
            if key in arrays and (arrays[key].ndim != num_axes or len(arrays[key]) != len(inputs)):
                problem = f"{key} have the shape {arrays[key].shape}, inputs {inputs.shape}"
                raise UserError(f"{root}: {problem}; give one for each of the {len(inputs)} inputs")
        labels, class_names = _classes(root, arrays["labels"], arrays.get("class_names"))
        self._inputs = inputs
        files = [f"inputs[{i}]" for i in range(len(inputs))]
        whole = Samples(np.arange(len(inputs)), labels, files, arrays.get("group"))
        if "split" not in arrays:
            return {"train": whole}, class_names
        return by_split(whole, _splits(root, arrays["split"])), class_names

    @property
    def spec_is_known(self) -> bool:
        return True

    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        """Reads each sample once, to find values that are not finite and to compute digests."""
        inputs = Rows(self._inputs, np.fromiter(items, np.int64, len(items)))
        count = max(1, PART // inputs.sample_bytes)
        parts = inputs.read(np.arange(start, min(start + count, len(items))) for start in range(0, len(items), count))
        part_digests = []
        bad: dict[int, str] = {}
        for number, part in enumerate(progress(parts, len(items), "checking arrays", len)):
            array = part.numpy()
            part_digests.append(digests(array))
            finite = np.isfinite(array).reshape(len(array), -1).all(1)
            bad |= {number * count + i: "contains NaN or inf" for i in np.flatnonzero(~finite).tolist()}
        return Loaded(inputs, np.concatenate(part_digests), bad)


def _load(root: Path) -> dict[str, np.ndarray]:
    """
    Raises:
        UserError: it is neither of the two, is damaged, or holds Python objects.
    """
    if not root.is_dir() and root.suffix.lower() != ".npz":
        raise UserError(f"datamodule.root: {root} is neither an .npz file nor a folder of .npy files; give one of them")
    arrays: dict[str, np.ndarray] = {}
    where = str(root)
    try:
        if root.is_dir():
            for path in sorted(root.glob("*.npy")):
                where = str(path)
                size_of(path)
                arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            size_of(root)
            with open(root, "rb") as file, open_npz(file) as archive:
                for key in archive.files:
                    where = f"{root}: {key}"
                    arrays[key] = archive[key]
    except DAMAGE as error:
        fix = "save plain numbers and strings by np.save or np.savez"
        raise UserError(f"{where}: cannot be read ({reason(error).rstrip('.')}); {fix}") from error
    return arrays


def _check_inputs(root: Path, inputs: np.ndarray) -> None:
    if inputs.dtype.kind not in "biuf":
        raise UserError(f"{root}: inputs are of type {inputs.dtype}; give numbers")
    if inputs.ndim not in (3, 4, 5):
        forms = "[N, C, L], [N, C, H, W] or [N, C, D, H, W]"
        raise UserError(f"{root}: inputs have the shape {inputs.shape}; give {forms}: inputs[:, None] adds a channel")
    if 0 in inputs.shape:
        raise UserError(f"{root}: inputs have the shape {inputs.shape} and are empty; fill them")


def _classes(root: Path, labels: np.ndarray, given: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Labels as int64 `[N]`, and the class names."""
    if given is not None and (given.dtype.kind != "U" or given.ndim != 1 or len(set(given.tolist())) != len(given)):
        raise UserError(f"{root}: class_names must be a list of distinct strings, one per class; correct it")
    names = None if given is None else [str(name) for name in given]
    if labels.ndim == 2:
        if names and len(names) != labels.shape[1]:
            problem = f"{len(names)} class_names, but labels {list(labels.shape)}"
            raise UserError(f"{root}: {problem}; give a name for each column")
        return _matrix(root, labels), names or [str(label) for label in range(labels.shape[1])]
    present, positions = np.unique(labels, return_inverse=True)
    if labels.dtype.kind == "U":
        names = names or present.tolist()
        for label in present.tolist():
            if label not in names:
                raise UserError(f"{root}: labels: '{label}' is not among class_names; {nearest(label, names)}")
        return np.array([names.index(label) for label in present.tolist()])[positions], names
    if labels.dtype.kind not in "iu":
        raise UserError(f"{root}: labels are of type {labels.dtype}; give integers from 0, or strings")
    count = int(present[-1]) + 1 if names is None else len(names)
    for label in (int(present[0]), int(present[-1])):
        if not 0 <= label < count:
            where = f"{root}: labels[{np.flatnonzero(labels == label)[0]}] is {label}"
            raise UserError(f"{where}; number the classes from 0, and give class_names for all or none")
    if names is None and len(present) < count:
        missing = np.flatnonzero(present != np.arange(len(present)))[0]
        raise UserError(f"{root}: labels: {missing} does not occur, but {count - 1} does; give class_names")
    return present[positions].astype(np.int64), names or [str(label) for label in range(count)]


def _matrix(root: Path, labels: np.ndarray) -> np.ndarray:
    """Several labels a sample, as 0/1 int64 `[N, num_classes]`."""
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise UserError(f"{root}: labels {list(labels.shape)} are not all 0 or 1; give 1 for each label of a sample")
    return labels.astype(np.int64)


def _splits(root: Path, split: np.ndarray) -> np.ndarray:
    """train, val or test, str `[N]`."""
    words, positions = np.unique(split, return_inverse=True)
    for word in words.tolist():
        if word not in SPLIT_WORDS:
            where = f"{root}: split[{np.flatnonzero(split == word)[0]}]"
            raise UserError(f"{where} is {word!r}; {nearest(str(word), SPLIT_WORDS)}")
    return np.array([SPLIT_WORDS[word] for word in words.tolist()])[positions]
