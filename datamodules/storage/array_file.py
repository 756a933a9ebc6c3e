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
from typing import Any, BinaryIO, Literal

import numpy as np

from conf.errors import UserError, first_line
from datamodules.storage.array_form import ArrayForm, arranged, resized, scaled
from datamodules.storage.memory import check_fits
from datamodules.storage.stored_file import size_of

SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm")
# Axes of .npy and .npz files by their number, where the user gives none.
USUAL_AXES = {1: "L", 2: "HW", 3: "CHW", 4: "CDHW"}
# Modules → the names of their loggers, which would print about corrupt files.
LOGGERS = {"nibabel": "nibabel.global", "pydicom": "pydicom"}
WARNING_MODULES = r"(numpy|tifffile|nibabel|pydicom)\b|datamodules\.storage\.array_f(ile|orm)"
# What NumPy and these modules raise for corrupt files.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, ArithmeticError, MemoryError, AttributeError, LookupError, TypeError,
    AssertionError, StopIteration, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip


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


def open_npz(file: BinaryIO) -> np.lib.npyio.NpzFile:
    """The arrays of an .npz file, without Python objects.

    Raises:
        ValueError: they do not fit into the free memory, as bombs do not.
    """
    archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
    assert archive.zip is not None
    check_fits(sum(member.file_size for member in archive.zip.infolist()))
    return archive


def read_arrays(paths: Sequence[str], form: ArrayForm) -> list[np.ndarray | str]:
    """Reads several files, see `read_array`."""
    return [read_array(path, form) for path in paths]


def _read(path: str, form: ArrayForm) -> tuple[np.ndarray, str]:
    """The values of a file as they are stored, and a letter of `ORDER` for each axis."""
    if size_of(path) == 0:
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


def _check_memory(shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises ValueError if an array does not fit into the free memory, as it is stored and as float32."""
    check_fits(math.prod(shape) * (dtype.itemsize + 4))


def _read_npy(path: str) -> np.ndarray:
    with open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: str) -> np.ndarray:
    with open(path, "rb") as file, open_npz(file) as archive:
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
        _check_memory(images[0].shape, images[0].dtype)
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
        _check_memory(image.shape, image.get_data_dtype())
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
    shape = [int(dataset.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
    _check_memory(shape, np.dtype(np.uint32))
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
