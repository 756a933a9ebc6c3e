"""Corrupt and unusual input is rejected by name, skipped, or decoded correctly; nothing else happens."""

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from conf.errors import UserError
from datamodules.image_datamodule import ImageDataModule
from tests.conftest import configure, write_images
from tests.datamodules.images import UPRIGHT, over_white, png_claiming

SIDE = 8
COLOURS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
RGB, GREY, ALPHA = COLOURS[..., :3], COLOURS[..., 0], COLOURS[..., 3]
# Adds an input to a valid folder of two classes of six images; checks the data module or the error.
Make = Callable[[Path], Any]
Check = Callable[[ImageDataModule | UserError, Path], None]


def refused(start: str, reason: str = "") -> Check:
    """An error of one line that starts with the file or key, and gives the reason and a fix."""

    def check(outcome: ImageDataModule | UserError, root: Path) -> None:
        assert isinstance(outcome, UserError)
        line = str(outcome)
        assert line.startswith(start.replace("{root}", str(root))), line
        assert reason in line and "; " in line and "\n" not in line, line

    return check


def holds(count: int) -> Check:
    """So many images are loaded."""

    def check(outcome: ImageDataModule | UserError, root: Path) -> None:
        assert not isinstance(outcome, UserError), outcome
        assert sum(len(outcome.files(split)) for split in ("train", "val", "test")) == count

    return check


def odd_one(outcome: ImageDataModule | UserError, root: Path) -> np.ndarray:
    """The pixels `[H, W, 3]` of the thirteenth image."""
    holds(13)(outcome, root)
    assert isinstance(outcome, ImageDataModule)
    for split in ("train", "val", "test"):
        for position, file in enumerate(outcome.files(split)):
            if "odd" in file:
                return next(outcome.split(split).read([np.array([position])]))[0].numpy().transpose(1, 2, 0).astype(int)
    raise AssertionError("not found by its name")


def shows(pixels: np.ndarray, tolerance: int = 0) -> Check:
    """The odd one has these pixels, `[H, W, 3]` or grey `[H, W]`."""
    expected = pixels if pixels.ndim == 3 else np.stack([pixels] * 3, 2)

    def check(outcome: ImageDataModule | UserError, root: Path) -> None:
        assert np.abs(odd_one(outcome, root) - expected).max() <= tolerance

    return check


def shows_a_line(outcome: ImageDataModule | UserError, root: Path) -> None:
    """The odd one, which is white, is at least a pixel high and wide between black borders."""
    assert odd_one(outcome, root).max() == 255


def saved(name: str, image: Image.Image, **options: Any) -> Make:
    return lambda root: image.save(root / "ant" / name, **options)


def content(name: str, data: bytes) -> Make:
    return lambda root: (root / "ant" / name).write_bytes(data)


def encoded(image_format: str, side: int = 64, **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, image_format, **options)
    return file.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_a_broken_chunk() -> bytes:
    """A PNG of several chunks of pixels, of which one has a wrong checksum."""
    data = encoded("png", 300)
    middle = data.index(b"IDAT", len(data) // 2)
    return data[: middle + 20] + bytes([data[middle + 20] ^ 0xFF]) + data[middle + 21 :]


def rotated(orientation: int) -> tuple[bytes, np.ndarray]:
    """A JPEG with an EXIF orientation, and its pixels upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "jpeg", exif=exif)
    return file.getvalue(), UPRIGHT[orientation](np.asarray(Image.open(file)))


def link(name: str, target: str) -> Make:
    return lambda root: (root / "ant" / name).symlink_to(target)


def nested(root: Path) -> None:
    (root / "ant" / "deep").mkdir()
    Image.fromarray(RGB).save(root / "ant" / "deep" / "odd.png")


def aliased(root: Path) -> None:
    nested(root)
    (root / "ant" / "alias").symlink_to("deep", target_is_directory=True)


def folder_named_as_an_image(root: Path) -> None:
    (root / "ant" / "x.jpg").mkdir()
    Image.fromarray(RGB).save(root / "ant" / "x.jpg" / "odd.png")


def no_classes(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / name).rename(root.parent / name)


def split(*folders: str) -> Make:
    """Moves the two classes into a split, and fills the folders of others."""

    def make(root: Path) -> None:
        for folder in ("train/ant", "train/bee", *folders):
            write_images(root / folder, 6, level=90, size=(SIDE, SIDE))
        for name in ("ant", "bee"):
            for path in (root / name).iterdir():
                path.unlink()
            (root / name).rmdir()

    return make


def val_alone(root: Path) -> None:
    (root / "val").mkdir()
    for name in ("ant", "bee"):
        (root / name).rename(root / "val" / name)


def locked(name: str) -> Make:
    return lambda root: (root / name).chmod(0)


def palette() -> Image.Image:
    image = Image.frombytes("P", (SIDE, SIDE), bytes(i % 4 for i in range(SIDE * SIDE)))
    image.putpalette([255, 0, 0, 10, 200, 30, 0, 0, 255, 90, 90, 90])
    return image


def colours_of_palette() -> np.ndarray:
    """Colour 1 is transparent, and so white."""
    colours = np.array([(255, 0, 0), (255, 255, 255), (0, 0, 255), (90, 90, 90)])
    return colours[np.arange(SIDE * SIDE) % 4].reshape(SIDE, SIDE, 3)


def solid(mode: str, colour: Any, width: int, height: int) -> Image.Image:
    return Image.new(mode, (width, height), colour)


FRAMES = {"save_all": True, "append_images": [solid("RGB", "blue", SIDE, SIDE), solid("RGB", "red", SIDE, SIDE)]}
GREY_FRAMES = {"save_all": True, "append_images": [solid("L", 0, SIDE, SIDE), solid("L", 255, SIDE, SIDE)]}
SIXTEEN = np.random.default_rng(2).integers(0, 65536, (SIDE, SIDE))
EIGHT_OF_SIXTEEN = np.floor(SIXTEEN * 255 / 65535 + 0.5)
ROWS: dict[str, tuple[Make, Check]] = {
    "no_bytes": (content("odd.jpg", b""), refused("ant/odd.jpg (the file is empty)")),
    "half_a_jpeg": (content("odd.jpg", half(encoded("jpeg"))), refused("ant/odd.jpg (", "truncated")),
    "half_a_png": (content("odd.png", half(encoded("png"))), refused("ant/odd.png (", "truncated")),
    "half_a_gif": (content("odd.gif", half(encoded("gif"))), refused("ant/odd.gif (", "truncated")),
    "half_a_webp": (content("odd.webp", half(encoded("webp"))), refused("ant/odd.webp (")),
    "header_alone": (content("odd.png", encoded("png")[:20]), refused("ant/odd.png (")),
    "html_as_jpg": (content("odd.jpg", b"<html>404</html>"), refused("ant/odd.jpg (not an image that Pillow reads)")),
    "text_as_png": (content("odd.png", b"no image\n" * 9), refused("ant/odd.png (not an image that Pillow reads)")),
    "broken_chunk": (content("odd.png", with_a_broken_chunk()), refused("ant/odd.png (")),
    "bomb": (content("odd.png", png_claiming(30_000, 30_000)), refused("ant/odd.png (", "exceeds limit")),
    "half_a_bomb": (content("odd.png", png_claiming(10_000, 9500)), refused("ant/odd.png (", "truncated")),
    "floating_point": (
        saved("odd.tif", Image.fromarray(GREY.astype(np.float32))),
        refused("ant/odd.tif (", "range of floating-point pixels"),
    ),
    "pipe": (lambda root: os.mkfifo(root / "ant" / "odd.png"), refused("ant/odd.png (")),
    "broken_link": (link("odd.png", "gone.png"), refused("ant/odd.png (no such file")),
    "link_to_itself": (link("odd.png", "odd.png"), refused("ant/odd.png (too many levels of symbolic links)")),
    "link_back": (link("back", "."), holds(12)),
    "link_upwards": (link("up", ".."), holds(12)),
    "two_links_to_a_folder": (aliased, holds(13)),
    "resource_fork": (content("._odd.jpg", b"\0\5\26\7"), holds(12)),
    "folder_as_jpg": (folder_named_as_an_image, shows(RGB)),
    "nested": (nested, shows(RGB)),
    "gif_as_png": (saved("odd.png", Image.fromarray(GREY), format="gif"), shows(GREY)),
    "gif_of_frames": (saved("odd.gif", Image.fromarray(GREY), **GREY_FRAMES), shows(GREY)),
    "webp_of_frames": (saved("odd.webp", Image.fromarray(RGB), lossless=True, **FRAMES), shows(RGB)),
    "png_of_16_bits": (saved("odd.png", Image.fromarray(SIXTEEN.astype(np.uint16))), shows(EIGHT_OF_SIXTEEN)),
    "tiff_of_32_bits": (saved("odd.tif", Image.fromarray(SIXTEEN.astype(np.int32))), shows(EIGHT_OF_SIXTEEN)),
    "cmyk_jpeg": (
        saved("odd.jpg", solid("CMYK", (51, 102, 153, 51), SIDE, SIDE), quality=100),
        shows(np.full((SIDE, SIDE, 3), [163, 122, 82]), 2),  # 255 · (1 - ink) · (1 - black)
    ),
    "la": (saved("odd.png", Image.fromarray(COLOURS[..., [0, 3]])), shows(over_white(GREY, ALPHA), 1)),
    "rgba": (saved("odd.png", Image.fromarray(COLOURS)), shows(over_white(RGB, ALPHA), 1)),
    "transparent_palette": (saved("odd.png", palette(), transparency=1), shows(colours_of_palette())),
    "one_bit": (saved("odd.png", Image.fromarray(GREY > 127)), shows(np.where(GREY > 127, 255, 0))),
    "one_pixel": (saved("odd.png", solid("RGB", (9, 80, 200), 1, 1)), shows(np.full((SIDE, SIDE, 3), [9, 80, 200]))),
    "very_wide": (saved("odd.png", solid("RGB", "white", 4000, 1)), shows_a_line),
    "very_high": (saved("odd.png", solid("RGB", "white", 1, 4000)), shows_a_line),
    **{f"exif_{i}": (content("odd.jpg", rotated(i)[0]), shows(rotated(i)[1], 1)) for i in UPRIGHT},
    "other_script": (saved("사진 größe odd.png", Image.fromarray(RGB)), shows(RGB)),
    "blanks": (saved(" odd  one .png", Image.fromarray(RGB)), shows(RGB)),
    "no_unicode": (saved(os.fsdecode(b"odd\xff.png"), Image.fromarray(RGB)), shows(RGB)),
    "upper_case": (saved("odd.PNG", Image.fromarray(RGB)), shows(RGB)),
    "empty_class": (lambda root: (root / "cat").mkdir(), refused("{root}/cat: contains no images")),
    "no_root": (lambda root: root.rename(root.parent / "moved"), refused("datamodule.root: {root} does not exist")),
    "file_as_root": (
        lambda root: (root.rename(root.parent / "moved"), root.write_bytes(b"x")),
        refused("datamodule.root: {root} holds no labelled images"),
    ),
    "no_classes": (no_classes, refused("datamodule.root: {root} holds 0 class folders")),
    "one_class": (
        lambda root: (root / "bee").rename(root.parent / "bee"),
        refused("datamodule.root: {root} holds 1 class"),
    ),
    "new_class_in_val": (split("val/ant", "val/cat"), refused("{root}/val/cat: ", "no class of that name")),
    "class_missing_in_val": (split("val/bee"), holds(18)),
    "val_without_train": (val_alone, refused("datamodule.root: {root} holds splits but no train")),
    "locked_file": (locked("ant/003.png"), refused("ant/003.png (permission denied)")),
    "locked_class": (locked("ant"), refused("{root}/ant")),
    "locked_root": (locked("."), refused("{root}")),
}


LOCKED = pytest.mark.skipif(os.geteuid() == 0, reason="root ignores file permissions")
MARKS = {
    "half_a_bomb": [pytest.mark.filterwarnings("ignore:Image size")],  # Pillow's, between its limit and twice that
    "locked_file": [LOCKED],
    "locked_class": [LOCKED],
    "locked_root": [LOCKED],
}


@cache
def datamodule_config() -> DictConfig:
    return configure("datamodule=image_folder", "datamodule.root=/nowhere", f"datamodule.image_size={SIDE}").datamodule


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ROWS])
def test_input_is_rejected_skipped_or_decoded(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    for folder in ("ant", "bee"):
        write_images(root / folder, 6, level=90, size=(SIDE, SIDE))
    make, check = ROWS[name]
    make(root)
    datamodule = instantiate(datamodule_config(), root=str(root), _convert_="all")
    try:
        datamodule.setup()
    except UserError as error:
        check(error, root)
    else:
        check(datamodule, root)
    finally:
        for path in (root, root / "ant"):  # pytest removes them
            if path.is_dir():
                path.chmod(0o700)
