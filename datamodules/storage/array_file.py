"""Reads one series, image or volume from a file. Imports no torch, so that workers start fast.

| suffix           | axes                                                                                        |
|------------------|---------------------------------------------------------------------------------------------|
| .npy, .npz       | `ArrayForm.axes`; an .npz file must hold exactly one array                                  |
| .tif, .tiff      | bands or colours are channels; pages, also those of a named axis, see `ArrayForm.pages`     |
| .nii, .nii.gz    | in closest canonical orientation: D from inferior to superior, H from posterior to anterior, |
|                  | W from left to right; further axes are channels                                             |
| .dcm             | frames are the depth, colours are channels                                                  |

Scale factors of NIfTI and DICOM (rescale slope and intercept, modality LUT) are applied. Grey levels stored inverted
(MONOCHROME1 in DICOM, MinIsWhite in TIFF) are inverted within their stored bits.
"""

import importlib
import logging
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from conf.errors import UserError, first_line

SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm")
# Axes of .npy and .npz files by their number, where the user gives none.
USUAL_AXES = {1: "L", 2: "HW", 3: "CHW", 4: "CDHW"}
# The order of axes in memory; L: length of a series.
ORDER = "CDHWL"
# Modules → the names of their loggers, which would print about corrupt files.
LOGGERS = {"nibabel": "nibabel.global", "pydicom": "pydicom"}
WARNING_MODULES = r"(numpy|tifffile|nibabel|pydicom)\b|datamodules\.storage\.array_file"
# What NumPy and these modules raise for corrupt files.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, ArithmeticError, MemoryError, AttributeError, LookupError, TypeError,
    AssertionError, StopIteration, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ArrayForm(NamedTuple):
    """The form in which arrays are read."""

    axes: str | None = None
    """The axes of .npy and .npz files: L, HW or DHW in any order, with or without C; without it a channel axis is
    added. None: L, HW, CHW or CDHW by their number"""
    pages: Literal["channels", "depth"] = "depth"
    """What the pages of a TIFF file are"""
    window: tuple[float, float] | None = None
    """(low, high): values become `(value - low) / (high - low)`, clipped to [0, 1]. None: they stay as they are"""
    size: tuple[int, ...] | None = None
    """The spatial shape to resize to, see `resized`. None: unchanged"""


def suffix_of(name: str) -> str | None:
    """The suffix of a file that can be read here, in lower case; None for other files."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def is_array_file(name: str) -> bool:
    """Whether a file name has one of the suffixes above."""
    return suffix_of(name) is not None


def read_array(path: str, form: ArrayForm) -> np.ndarray | str:
    """The array `[C, *spatial]` of a file, or the reason why it is unreadable.

    uint8 without a window stays uint8; everything else becomes float32.

    Raises:
        UserError: the module that reads this format is not installed.
    """
    # The modules warn of what is odd in a file. Not `catch_warnings`, which would change those of other threads.
    warnings.filterwarnings("ignore", module=WARNING_MODULES)
    try:
        values, axes = _read(path, form)
        if values.dtype.kind not in "biuf":
            return f"holds {values.dtype}, not numbers"
        if 0 in values.shape:
            return f"has the shape {values.shape}, which is empty"
        array = scaled(arranged(values, axes), form.window)
        if not np.isfinite(array).all():
            return "contains NaN or inf"
        return array if form.size is None else resized(array, form.size)
    except DAMAGE as error:
        return _reason(error, path)


def read_arrays(paths: Sequence[str], form: ArrayForm) -> list[np.ndarray | str]:
    """Reads several files, see `read_array`."""
    return [read_array(path, form) for path in paths]


def arranged(values: np.ndarray, axes: str) -> np.ndarray:
    """Orders the axes: `[C, *spatial]`. Several axes of one letter become one; without a C, one is added.

    Args:
        axes: a letter of `ORDER` for each axis.
    """
    moved = values.transpose(sorted(range(len(axes)), key=lambda axis: ORDER.index(axes[axis])))
    shape = [1] if "C" not in axes else []
    for letter in ORDER:
        sizes = [size for axis, size in zip(axes, values.shape, strict=True) if axis == letter]
        if sizes:
            shape.append(math.prod(sizes))
    return moved.reshape(shape)


def scaled(array: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Converts to float32, but not uint8 without a window. A window maps infinite values to NaN."""
    if window is None:
        with np.errstate(over="ignore"):  # becomes inf
            return array if array.dtype == np.uint8 else array.astype(np.float32)
    low, high = window
    precise = array.astype(np.result_type(array, np.float32))
    fractions = np.clip((precise - low) / (high - low), 0, 1)
    return np.where(np.isfinite(precise), fractions, np.nan).astype(np.float32)


def resized(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes `[C, *spatial]`: axes that shrink by averages over areas, then those that grow linearly.

    Raises:
        ValueError: `size` has another number of axes.
    """
    spatial = array.shape[1:]
    if len(size) != len(spatial):
        raise ValueError(f"has {len(spatial)} spatial axes, but datamodule.size {len(size)}")
    if spatial == size:
        return array
    import torch
    from torch.nn.functional import interpolate

    samples = torch.from_numpy(np.array(array, np.float32, order="C"))[None]  # [1, C, *spatial]
    smaller = [min(old, new) for old, new in zip(spatial, size, strict=True)]
    samples = interpolate(samples, smaller, mode="area")
    samples = interpolate(samples, list(size), mode=LINEAR[len(size)])
    return (samples.round().byte() if array.dtype == np.uint8 else samples)[0].numpy()


def _read(path: str, form: ArrayForm) -> tuple[np.ndarray, str]:
    """The values of a file as they are stored, and a letter of `ORDER` for each axis."""
    if Path(path).stat().st_size == 0:
        raise OSError("the file is empty")
    suffix = suffix_of(path)
    if suffix in (".npy", ".npz"):
        values = _read_npy(path) if suffix == ".npy" else _read_npz(path)
        axes = form.axes or USUAL_AXES.get(values.ndim)
        if axes is None or len(axes) != values.ndim:
            expected = f"datamodule.axes is {form.axes}" if form.axes else "1 to 4 axes are expected"
            raise ValueError(f"has the shape {values.shape}, but {expected}")
        return values, axes
    if suffix == ".dcm":
        return _read_dicom(path)
    return _read_tiff(path, form.pages) if suffix in (".tif", ".tiff") else _read_nifti(path)


def _read_npy(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: str) -> np.ndarray:
    with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
        if len(archive.files) != 1:
            raise ValueError(f"holds {len(archive.files)} arrays, not one")
        return archive[archive.files[0]]


def _read_tiff(path: str, pages: Literal["channels", "depth"]) -> tuple[np.ndarray, str]:
    tifffile = _imported("tifffile")
    # OME's metadata name other files, anywhere on the disk.
    with _page_errors() as errors, tifffile.TiffFile(path, is_ome=False) as file:
        images = [series for series in file.series if not series.keyframe.is_reduced]  # without overviews
        if len(images) != 1:
            raise ValueError(f"holds {len(images)} images of different shapes or types, not one")
        photometric, bits = images[0].keyframe.photometric, images[0].keyframe.bitspersample
        if photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ValueError("holds numbers of palette colours, not values")
        values = images[0].asarray()
        if errors:
            raise ValueError(f"corrupt ({errors[0]})")
        if photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "biu":
            values = _inverted(values, bits)
        of_page = "D" if pages == "depth" else "C"
        letters = {"S": "C", "C": "C", "Y": "H", "X": "W"}
        return values, "".join(letters.get(axis, of_page) for axis in images[0].axes)


@contextmanager
def _page_errors() -> Iterator[list[str]]:
    """Collects what tifffile logs of pages that it cannot read, without which it reads on."""
    errors: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and "page" in record.getMessage():
            errors.append(record.getMessage())
        return False  # nothing is printed

    logger = logging.getLogger("tifffile")
    logger.addFilter(collect)
    try:
        yield errors
    finally:
        logger.removeFilter(collect)


def _read_nifti(path: str) -> tuple[np.ndarray, str]:
    nibabel = _imported("nibabel")
    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Pair) or len(image.shape) < 3:
            raise ValueError(f"holds an array of shape {image.shape}, not a volume")
        values = np.asanyarray(nibabel.as_closest_canonical(image).dataobj)
    except nibabel.filebasedimages.ImageFileError as error:
        raise ValueError("not a NIfTI file, or truncated") from error
    except (nibabel.spatialimages.HeaderDataError, nibabel.orientations.OrientationError) as error:
        raise ValueError(f"corrupt ({first_line(error)})") from error
    return values, "WHD" + "C" * (values.ndim - 3)


def _read_dicom(path: str) -> tuple[np.ndarray, str]:
    pydicom = _imported("pydicom")
    try:
        return _dicom_values(pydicom, pydicom.dcmread(path))
    except pydicom.errors.InvalidDicomError as error:
        raise ValueError("not a DICOM file") from error
    except pydicom.errors.BytesLengthException as error:  # whose message holds those bytes
        raise ValueError("corrupt (a value of the wrong length)") from error


def _dicom_values(pydicom: Any, dataset: Any) -> tuple[np.ndarray, str]:
    values = dataset.pixel_array  # [frames, rows, columns, colours], or less
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise ValueError("holds numbers of palette colours, not values")
    if dataset.PhotometricInterpretation == "MONOCHROME1" and values.dtype.kind in "iu":
        values = _inverted(values, dataset.BitsStored)
    colours = "C" if dataset.SamplesPerPixel > 1 else ""
    axes = "D" * (values.ndim - 2 - len(colours)) + "HW" + colours
    if "ModalityLUTSequence" in dataset:
        return pydicom.pixels.apply_modality_lut(values, dataset), axes
    return _rescaled(values, dataset), axes


def _rescaled(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Applies slope and intercept: of the whole dataset, or as functional groups of all frames or of each."""
    sources = [dataset]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = [group for group in dataset.get(name) or [] if "PixelValueTransformationSequence" in group]
        if groups:
            sources = [group.PixelValueTransformationSequence[0] for group in groups]
    numbers = [(source.get("RescaleSlope"), source.get("RescaleIntercept")) for source in sources]
    slopes = np.array([1.0 if slope is None else float(slope) for slope, _ in numbers])
    intercepts = np.array([0.0 if intercept is None else float(intercept) for _, intercept in numbers])
    if (slopes == 1).all() and (intercepts == 0).all():
        return values
    shape = (-1,) + (1,) * (values.ndim - 1) if len(sources) > 1 else ()
    return values * slopes.reshape(shape) + intercepts.reshape(shape)


def _inverted(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers with the lowest and the highest value of their bits exchanged."""
    return values ^ values.dtype.type(2**bits - 1) if values.dtype.kind == "u" else np.invert(values)


def _imported(name: str) -> Any:
    """A module that reads a format; raises UserError if it is not installed."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f'datamodule.root: {name} is not installed; pip install -e ".[formats]"') from error
    if name in LOGGERS:
        logging.getLogger(LOGGERS[name]).setLevel(logging.CRITICAL)
    return module


def _reason(error: BaseException, path: str) -> str:
    """Why a file is unreadable: one line without its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    line = first_line(error).replace(path, "the file").rstrip(":")
    is_plain = isinstance(error, OSError | ValueError | EOFError | RuntimeError | MemoryError | zipfile.BadZipFile)
    return line if is_plain else f"corrupt ({line})"
