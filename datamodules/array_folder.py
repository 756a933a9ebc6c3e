"""Series, images or volumes in class folders, one file each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from conf.errors import UserError
from datamodules.datamodule import DataModule
from datamodules.layouts.class_folders import class_folders, unwrapped
from datamodules.layouts.folder import DiskFolder
from datamodules.splits import Samples
from datamodules.storage.array_file import SUFFIXES, is_array_file, read_array, read_arrays, suffix_of
from datamodules.storage.array_form import ArrayForm
from datamodules.storage.decode import digests
from datamodules.storage.inputs import CHANGED, InMemory, Loaded, stamps_of
from datamodules.storage.memory import free_memory
from datamodules.storage.stored_file import stamp_of
from datamodules.storage.worker_pool import CHUNK, Workers, progress

# Fraction of the free memory that the arrays may take.
MAX_MEMORY_FRACTION = 0.5
# Bytes sent to a process at once, at most, unless a single array has more.
TASK_BYTES = 2**24
# Each is a permutation of one of these, with or without C.
SPATIAL_AXES = ("L", "HW", "DHW")


class ArrayFiles:
    """Arrays that are read from their files at every read, some ahead.

    Args:
        items: the files; the first that is readable determines shape and type.
        files: their names in error messages.
        form: in which they are read.
        num_workers: see `Workers`.

    Raises:
        UserError: all are unreadable, or `form.size` does not fit.
    """

    def __init__(self, items: Sequence[str], files: Sequence[str], form: ArrayForm, num_workers: int | None) -> None:
        self._items, self._files, self._form = items, files, form
        self._first, array = _first_readable(items, files, form)
        self.shape: tuple[int, ...] = array.shape if form.size is None else (len(array), *form.size)
        self.dtype = array.dtype
        self.sample_bytes = math.prod(self.shape) * array.itemsize
        self.workers = Workers(num_workers, items)
        self._stamps = stamps_of(items)

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """
        Raises:
            UserError: a file is unreadable, or has changed since this object was made.
        """
        all_rows = list(batches)
        positions = [row for rows in all_rows for row in rows.tolist()]
        arrays = self.arrays(positions)
        for rows in all_rows:
            samples = []
            for row, array in zip(rows.tolist(), islice(arrays, len(rows)), strict=True):
                if not isinstance(array, str) and stamp_of(self._items[row]) != self._stamps[row]:
                    array = CHANGED
                if isinstance(array, str):
                    raise UserError(f"{self._files[row]}: {array}; repair the file, then resume by run=…")
                samples.append(array)
            yield torch.from_numpy(np.stack(samples))

    def arrays(self, positions: Sequence[int]) -> Iterator[np.ndarray | str]:
        """The array of each file, or why it is unreadable.

        Raises:
            UserError: an array differs from the first in shape, or in whether it is uint8.
        """
        count = max(1, min(CHUNK, TASK_BYTES // self.sample_bytes))
        parts = [positions[start : start + count] for start in range(0, len(positions), count)]
        tasks = ([self._items[i] for i in part] for part in parts)
        results = self.workers.map(partial(read_arrays, form=self._form), tasks)
        for part, arrays in zip(parts, results, strict=True):
            for position, array in zip(part, arrays, strict=True):
                if not isinstance(array, str):
                    self._check_same_form(position, array)
                yield array

    def _check_same_form(self, position: int, array: np.ndarray) -> None:
        file, first = self._files[position], self._files[self._first]
        if array.shape != self.shape:
            fix = "convert them to the same axes and channels"
            if (array.ndim, len(array)) == (len(self.shape), self.shape[0]):
                fix = f"set datamodule.size=[{','.join(map(str, self.shape[1:]))}] to resize all"
            raise UserError(f"{file}: has the shape {array.shape}, but {first} {self.shape}; {fix}")
        if array.dtype != self.dtype:
            scaled, other = (file, first) if array.dtype == np.uint8 else (first, file)
            problem = f"is uint8, which is scaled to [0, 1], but {other} is not"
            raise UserError(f"{scaled}: {problem}; set datamodule.window=[low,high], or convert them to one type")


@dataclass(kw_only=True, eq=False, repr=False)
class ArrayFolderDataModule(DataModule):
    """A folder of class folders, also below `train`, `val` and `test`, with a file for each sample:

    NumPy (.npy, .npz), TIFF (.tif, .tiff), NIfTI (.nii, .nii.gz) or DICOM (.dcm); see `storage.array_file` for their
    axes. They become `[C, L]`, `[C, H, W]` or `[C, D, H, W]`. They are kept in memory if they take at most half of what
    is free; otherwise they are read each time they are needed.

    Args:
        root: the folder. A single folder around all is skipped. Hidden files are ignored.
        axes, pages, window, size: see `ArrayForm`.
        num_workers: processes that read; null: one per core. It affects speed alone.
    """

    root: str
    axes: str | None
    pages: Literal["channels", "depth"]
    window: list[float] | None
    size: list[Annotated[int, Ge(1)]] | None
    num_workers: Annotated[int, Ge(0)] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_form(self.axes, self.window, self.size)

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            fix = "give a folder of class folders; for all samples in one .npz file use datamodule=arrays"
            raise UserError(f"datamodule.root: {root} is not a folder; {fix}")
        folder, above = unwrapped(DiskFolder(root))
        if not any(is_array_file(path) for path, _ in folder.walk()):
            fix = "add some, or use datamodule=image_folder for images"
            raise UserError(f"datamodule.root: {root} holds no files of the types {', '.join(SUFFIXES)}; {fix}")
        listing = class_folders(folder, above, is_array_file)
        splits, class_names = listing.splits()
        suffixes = {suffix_of(file) or "" for samples in splits.values() for file in samples.files}
        listing.layout = f"class folders of {', '.join(sorted(suffixes))} files"
        self.layout = listing.describe()
        return splits, class_names

    @property
    def spec_is_known(self) -> bool:
        return True

    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        """Reads each file once, also if they exceed memory, to find those that are unreadable and for the digests."""
        window = None if self.window is None else (self.window[0], self.window[1])
        size = None if self.size is None else tuple(self.size)
        source = ArrayFiles(list(items), files, ArrayForm(self.axes, self.pages, window, size), self.num_workers)
        in_memory = len(items) * source.sample_bytes <= MAX_MEMORY_FRACTION * free_memory()
        kept = np.zeros((len(items) if in_memory else 0, *source.shape), source.dtype)
        sample_digests = np.zeros(len(items), np.uint64)
        bad: dict[int, str] = {}
        arrays = progress(source.arrays(range(len(items))), len(items), "reading arrays", lambda _: 1)
        for position, array in enumerate(arrays):
            if isinstance(array, str):
                bad[position] = array
                continue
            sample_digests[position] = digests(array[None])[0]
            if in_memory:
                kept[position] = array
        if in_memory:
            source.workers.close()
        return Loaded(InMemory(kept) if in_memory else source, sample_digests, bad)


def _first_readable(items: Sequence[str], files: Sequence[str], form: ArrayForm) -> tuple[int, np.ndarray]:
    """The position of the first readable file, and its array before it is resized."""
    problem = ""
    for position, item in enumerate(items):
        array = read_array(item, form._replace(size=None))
        if isinstance(array, str):
            problem = problem or array
            continue
        if form.size is not None and len(form.size) != array.ndim - 1:
            shape = "×".join(map(str, array.shape[1:]))
            fix = "give one number for each axis"
            raise UserError(f"datamodule.size: {list(form.size)} does not fit {files[position]} of {shape}; {fix}")
        return position, array
    raise UserError(f"{files[0]}: {problem}; all {len(items)} files are unreadable, so check their format")


def _check_form(axes: str | None, window: Sequence[float] | None, size: Sequence[int] | None) -> None:
    if axes is not None:
        spatial = "".join(sorted(axes.replace("C", "", 1)))
        if spatial not in SPATIAL_AXES:
            raise UserError(f"datamodule.axes: {axes} are not axes; give L, HW or DHW in any order, with C or without")
    if window is not None and (len(window) != 2 or not -math.inf < window[0] < window[1] < math.inf):
        raise UserError(f"datamodule.window: {list(window)} is not a window; give [low, high], such as [-1000, 400]")
    if size is not None and (len(size) not in (1, 2, 3) or min(size) < 1):
        raise UserError(f"datamodule.size: {list(size)} is not a size; give [L], [H, W] or [D, H, W]")
