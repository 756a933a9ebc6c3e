"""Files become the arrays that were written into them, by a stated rule for axes and values."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from conf.errors import UserError
from datamodules.storage.array_file import read_array
from datamodules.storage.array_form import ArrayForm, resized

PLAIN = ArrayForm()


def integers(*shape: int, dtype: str = "uint16", high: int = 250) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def array_of(path: Path, form: ArrayForm = PLAIN) -> np.ndarray:
    array = read_array(str(path), form)
    assert isinstance(array, np.ndarray), array
    return array


def reason_of(path: Path, form: ArrayForm = PLAIN) -> str:
    reason = read_array(str(path), form)
    assert isinstance(reason, str) and reason and "\n" not in reason and str(path) not in reason
    return reason


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_dicom(path: Path, values: np.ndarray, kind: str = "MONOCHROME2", bits: int = 8, **elements: Any) -> Path:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.set_pixel_data(values, kind, bits)
    dataset.update(elements)
    dataset.save_as(path, enforce_file_format=True)
    return path


def rescale(slope: float, intercept: float) -> pydicom.Dataset:
    """A functional group."""
    group, transformation = pydicom.Dataset(), pydicom.Dataset()
    transformation.update({"RescaleSlope": slope, "RescaleIntercept": intercept})
    group.PixelValueTransformationSequence = [transformation]
    return group


@pytest.mark.parametrize("shape", [(9,), (6, 5), (3, 6, 5), (2, 4, 6, 5)], ids=len)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int32", "float16", "float64", "bool"])
@pytest.mark.parametrize("suffix", [".npy", ".NPZ"])
def test_numpy_files_equal_the_saved_array(tmp_path: Path, shape: tuple[int, ...], dtype: str, suffix: str) -> None:
    values = integers(*shape, dtype=dtype)
    with open(tmp_path / f"a{suffix}", "wb") as file:
        (np.save if suffix == ".npy" else np.savez)(file, values)
    array = array_of(tmp_path / f"a{suffix}")
    assert array.dtype == (np.uint8 if dtype == "uint8" else np.float32)
    expected = values[None] if len(shape) < 3 else values
    assert array.shape == expected.shape and np.array_equal(array, expected.astype(array.dtype))


@pytest.mark.parametrize(
    ("axes", "shape", "moved"),
    [
        ("CL", (2, 9), lambda values: values),
        ("LC", (9, 2), lambda values: values.T),
        ("HWC", (6, 5, 3), lambda values: np.moveaxis(values, -1, 0)),
        ("WH", (5, 6), lambda values: values.T[None]),
        ("DHW", (4, 6, 5), lambda values: values[None]),
        ("WHDC", (5, 6, 4, 2), np.transpose),
    ],
)
def test_axes_are_ordered(tmp_path: Path, axes: str, shape: tuple[int, ...], moved: Callable[..., Any]) -> None:
    values = integers(*shape, dtype="float32")
    np.save(tmp_path / "a.npy", values)
    array = array_of(tmp_path / "a.npy", ArrayForm(axes=axes))
    assert array.shape == moved(values).shape and np.array_equal(array, moved(values))
    assert reason_of(tmp_path / "a.npy", ArrayForm(axes="CDHW"[: 1 + len(axes) % 3])).startswith("has the shape (")


def test_window_is_linear_and_clipped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([-2000, -1000, -300, 400, 3000], np.int16))
    window = array_of(tmp_path / "a.npy", ArrayForm(window=(-1000, 400)))
    assert window.dtype == np.float32 and window.tolist() == [[0, 0, 0.5, 1, 1]]
    np.save(tmp_path / "a.npy", np.array([0, 51, 255], np.uint8))
    assert array_of(tmp_path / "a.npy", ArrayForm(window=(0, 102))).tolist() == [[0, 0.5, 1]]


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf):
        np.save(tmp_path / "a.npy", np.array([1, value, 2]))
        for form in (PLAIN, ArrayForm(window=(0, 1))):
            assert reason_of(tmp_path / "a.npy", form) == "contains NaN or inf"
    np.save(tmp_path / "a.npy", np.array([1, 1e300]))  # too large for float32
    assert reason_of(tmp_path / "a.npy") == "contains NaN or inf"
    assert array_of(tmp_path / "a.npy", ArrayForm(window=(0, 2))).tolist() == [[0.5, 1]]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_bands_are_channels(tmp_path: Path, compression: str | None) -> None:
    values = integers(5, 16, 17, high=2**16)
    grey: Any = {"photometric": "minisblack", "compression": compression}
    tifffile.imwrite(tmp_path / "last.tif", np.moveaxis(values, 0, -1), planarconfig="contig", **grey)
    tifffile.imwrite(tmp_path / "first.TIFF", values, planarconfig="separate", **grey)
    for name, pages in (("last.tif", "depth"), ("last.tif", "channels"), ("first.TIFF", "depth")):
        array = array_of(tmp_path / name, ArrayForm(pages=pages))
        assert array.dtype == np.float32 and np.array_equal(array, values)


def test_tiff_pages_are_depth_or_channels(tmp_path: Path) -> None:
    values = integers(3, 16, 17, dtype="uint8")
    frames = [Image.fromarray(page) for page in values]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert np.array_equal(array_of(tmp_path / "a.tif"), values[None])
    assert np.array_equal(array_of(tmp_path / "a.tif", ArrayForm(pages="channels")), values)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        third = file.pages[2].offset
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:third])
    assert "page" in reason_of(tmp_path / "a.tif"), "the first pages alone are no sample"
    stack = integers(4, 3, 16, 17)
    tifffile.imwrite(tmp_path / "b.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    assert np.array_equal(array_of(tmp_path / "b.tif"), stack.swapaxes(0, 1))
    assert np.array_equal(array_of(tmp_path / "b.tif", ArrayForm(pages="channels")), stack.reshape(12, 16, 17))


def test_tiff_colours_and_inverted_grey(tmp_path: Path) -> None:
    colours = integers(16, 17, 3, dtype="uint8")
    Image.fromarray(colours).save(tmp_path / "a.tif")
    assert np.array_equal(array_of(tmp_path / "a.tif"), np.moveaxis(colours, -1, 0))
    grey = integers(16, 17, dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    assert np.array_equal(array_of(tmp_path / "a.tif"), 255 - grey[None])
    Image.fromarray(grey).convert("P").save(tmp_path / "a.tif")
    assert "palette" in reason_of(tmp_path / "a.tif")


def test_tiff_overviews_are_left_out(tmp_path: Path) -> None:
    values = integers(64, 48)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values)
        file.write(values[:31, :23], subfiletype=1)
    assert np.array_equal(array_of(tmp_path / "a.tif"), values[None])
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values)
        file.write(values[::2, ::2])
    assert reason_of(tmp_path / "a.tif").startswith("holds 2 images of different shapes")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_nifti_is_read_in_canonical_orientation(tmp_path: Path, suffix: str, codes: str) -> None:
    values = integers(4, 5, 6)  # from left to right, posterior to anterior, inferior to superior
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = nibabel.orientations.apply_orientation(values, change)
    path = write_nifti(tmp_path / f"a{suffix}", stored, inv_ornt_aff(change, values.shape))
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == codes
    assert np.array_equal(array_of(path), values.transpose(2, 1, 0)[None])


def test_nifti_is_scaled_and_keeps_its_channels(tmp_path: Path) -> None:
    values = integers(4, 5, 6, 2, dtype="int16")
    image = nibabel.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled()
    assert np.array_equal(array_of(tmp_path / "a.nii"), (stored * 0.5 - 3).transpose(3, 2, 1, 0))
    assert "not a volume" in reason_of(write_nifti(tmp_path / "flat.nii", values[:, :, 0, 0]))


def test_dicom_values_are_rescaled(tmp_path: Path) -> None:
    values = integers(9, 8, high=4096)
    path = write_dicom(tmp_path / "a.dcm", values, bits=12, RescaleSlope=2, RescaleIntercept=-1024)
    assert np.array_equal(array_of(path), 2.0 * values[None] - 1024)
    inverted = write_dicom(tmp_path / "b.dcm", values, "MONOCHROME1", 12, RescaleSlope=2, RescaleIntercept=-1024)
    assert np.array_equal(array_of(inverted), 2.0 * (4095 - values[None]) - 1024)
    assert np.allclose(array_of(path, ArrayForm(window=(-1024, 3072))), np.minimum(values[None] / 2048, 1))


def test_dicom_bytes_without_rescaling_stay_bytes(tmp_path: Path) -> None:
    values = integers(9, 8, dtype="uint8")
    array = array_of(write_dicom(tmp_path / "a.dcm", values, RescaleSlope=1, RescaleIntercept=0))
    assert array.dtype == np.uint8 and np.array_equal(array, values[None])
    signed = integers(9, 8, dtype="int16")
    assert np.array_equal(array_of(write_dicom(tmp_path / "b.dcm", signed, "MONOCHROME1", 16)), -1 - signed[None])


def test_dicom_frames_are_depth_and_colours_channels(tmp_path: Path) -> None:
    frames = integers(4, 9, 8, dtype="uint8")
    path = write_dicom(tmp_path / "a.dcm", frames)
    assert np.array_equal(array_of(path), frames[None])
    compressed = pydicom.dcmread(path)
    compressed.compress(RLELossless)
    compressed.save_as(path)
    assert np.array_equal(array_of(path), frames[None])
    colours = integers(9, 8, 3, dtype="uint8")
    assert np.array_equal(array_of(write_dicom(tmp_path / "b.dcm", colours, "RGB")), np.moveaxis(colours, -1, 0))


def test_dicom_frames_have_their_own_rescaling(tmp_path: Path) -> None:
    frames = integers(2, 9, 8)
    groups = [rescale(2, 1), rescale(4, -3)]
    path = write_dicom(tmp_path / "a.dcm", frames, bits=16, PerFrameFunctionalGroupsSequence=groups)
    assert np.array_equal(array_of(path), np.stack([2.0 * frames[0] + 1, 4.0 * frames[1] - 3])[None])
    path = write_dicom(tmp_path / "b.dcm", frames, bits=16, SharedFunctionalGroupsSequence=groups[:1])
    assert np.array_equal(array_of(path), 2.0 * frames[None] + 1)


def test_resizing_averages_and_interpolates() -> None:
    values = integers(2, 8, 6, 4, dtype="float32")
    means = values.reshape(2, 4, 2, 2, 3, 4).mean((2, 4))  # halves 8, divides 6 by 3
    assert np.allclose(resized(values, (4, 2, 4)), means)
    line = integers(1, 5, dtype="float32")
    positions = np.clip((np.arange(15) + 0.5) / 3 - 0.5, 0, 4)
    assert np.allclose(resized(line, (15,))[0], np.interp(positions, np.arange(5), line[0]))
    image = integers(1, 4, 2, dtype="uint8")
    both = resized(image, (2, 4))  # one axis shrinks, the other grows
    halved = image.reshape(2, 2, 2).mean(1)
    grown = np.stack([np.interp([0, 0.25, 0.75, 1], [0, 1], row) for row in halved])
    assert both.dtype == np.uint8 and np.array_equal(both[0], grown.round())
    with pytest.raises(ValueError, match=r"^has 1 spatial axes, but datamodule\.size 2$"):
        resized(line, (4, 4))


FILES: dict[str, Callable[[Path], Any]] = {
    "a.npy": lambda path: np.save(path, integers(5, 16, 17)),
    "a.npz": lambda path: np.savez_compressed(path, integers(5, 16, 17)),
    "a.tif": lambda path: tifffile.imwrite(path, integers(5, 16, 17), photometric="minisblack"),
    "a.nii": lambda path: write_nifti(path, integers(5, 16, 17)),
    "a.nii.gz": lambda path: write_nifti(path, integers(5, 16, 17)),
    "a.dcm": lambda path: write_dicom(path, integers(5, 16, 17), bits=16),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_have_a_reason(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    FILES[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    contents = [whole[: len(whole) * part // 8] for part in range(1, 8)] + [b"some text " * 99, b"\0" * 999]
    for other in FILES.keys() - {name}:
        FILES[other](tmp_path / other)
        contents.append((tmp_path / other).read_bytes())
    for content in contents:
        (tmp_path / name).write_bytes(content)
        reason_of(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert reason_of(tmp_path / name) == "the file is empty"
    assert not caplog.records, "the modules log nothing"


def test_arrays_that_hold_no_numbers_are_refused(tmp_path: Path) -> None:
    for values, line in (
        (np.array([1, "a"], object), "Object arrays cannot be loaded when allow_pickle=False"),
        (np.array(["a", "b"]), "holds <U1, not numbers"),
        (np.array([1j, 2]), "holds complex128, not numbers"),
        (np.zeros((0, 3)), "has the shape (0, 3), which is empty"),
        (np.array(3.0), "has the shape (), but 1 to 4 axes are expected"),
    ):
        np.save(tmp_path / "a.npy", values)
        assert reason_of(tmp_path / "a.npy") == line
    np.savez(tmp_path / "a.npz", first=integers(3), second=integers(3))
    assert reason_of(tmp_path / "a.npz") == "holds 2 arrays, not one"


def test_odd_but_valid_files_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (3L, 4L), }\n"  # as Python 2 wrote it
    values = integers(3, 4)
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (tmp_path / "a.npy").write_bytes(magic + header + values.tobytes())
    assert np.array_equal(array_of(tmp_path / "a.npy"), values[None])
    path = write_dicom(tmp_path / "a.dcm", integers(9, 8), bits=16)
    path.write_bytes(path.read_bytes().replace(b"1.2.3", b"1.2.x"))  # not a UID
    assert array_of(path).shape == (1, 9, 8)
    path = write_nifti(tmp_path / "a.nii", integers(3, 4, 5))
    content = bytearray(path.read_bytes())
    content[80:84] = np.float32(-1).tobytes()  # a negative width of a voxel
    path.write_bytes(content)
    assert array_of(path).shape == (1, 5, 4, 3) and not caplog.records


@pytest.mark.parametrize(("name", "module"), [("a.tif", "tifffile"), ("a.nii", "nibabel"), ("a.dcm", "pydicom")])
def test_missing_modules_are_named(tmp_path: Path, monkeypatch: Any, name: str, module: str) -> None:
    FILES[name](tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'^datamodule\.root: {module} is not installed; pip install -e "\.\[forma'):
        read_array(str(tmp_path / name), PLAIN)
