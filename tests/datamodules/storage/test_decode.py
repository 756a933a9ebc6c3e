"""Decoding of each mode equals an independent computation; unreadable files give a reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.storage.decode import ImageSpec, Resize, decode, to_array
from datamodules.storage.image_header import ImageHeader, read_header
from tests.datamodules.images import (
    FOUR_COLOURS,
    HEIGHT,
    UPRIGHT,
    WIDTH,
    noise,
    over_white,
    palette_image,
    palette_pixels,
    png_claiming,
)

SIZE = (HEIGHT, WIDTH)
GREY = ImageSpec(1, SIZE, "pad", False)
RGB = ImageSpec(3, SIZE, "pad", False)


def chw(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_grey_and_rgb_equal_torchvision(mode: str, channels: int) -> None:
    image = Image.fromarray(noise(channels))
    assert image.mode == mode
    assert np.array_equal(to_array(image, GREY._replace(channels=channels)), pil_to_tensor(image).numpy())


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_files_equal_torchvision(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(noise(3)).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = pil_to_tensor(image).numpy()
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", RGB), expected)


def test_grey_is_repeated_for_three_channels() -> None:
    pixels = noise(1)
    assert np.array_equal(to_array(Image.fromarray(pixels), RGB), np.stack([pixels] * 3))


def test_rgb_becomes_luminance_for_one_channel() -> None:
    pixels = noise(3)
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_array(Image.fromarray(pixels), GREY)[0] - luminance).max() <= 1


def test_one_bit_becomes_black_and_white() -> None:
    bits = noise(1) > 127
    decoded = to_array(Image.fromarray(np.uint8(255) * bits).convert("1", dither=Image.Dither.NONE), GREY)
    assert np.array_equal(decoded[0], np.where(bits, 255, 0))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_not_saturated(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, SIZE)
    values.flat[:6] = [0, 128, 129, 65406, 65407, 65535]  # around the first and the last step, rounding half
    image = Image.fromarray(values.astype(np.uint16))
    image = image if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert image.mode == mode
    expected = np.floor(values * 255 / 65535 + 0.5)
    assert np.array_equal(to_array(image, GREY)[0], expected)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(decode(tmp_path / "a.tif", GREY)[0], expected)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_are_rejected(value: int) -> None:
    image = Image.fromarray(np.full(SIZE, value, np.int32))
    assert decode(image, GREY) == "mode I with values outside 0 … 65535"


def test_floating_point_is_rejected() -> None:
    image = Image.fromarray(np.zeros(SIZE, np.float32))
    assert image.mode == "F"
    assert "range of floating-point pixels is unknown" in str(decode(image, GREY))


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_alpha_is_composited_over_white(mode: str, channels: int) -> None:
    pixels = noise(channels + 1)
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    colour = pixels[..., 0] if channels == 1 else pixels[..., :3]
    decoded = to_array(Image.fromarray(pixels, mode), GREY._replace(channels=channels))
    assert np.abs(decoded - chw(over_white(colour, pixels[..., -1]))).max() <= 1
    assert (decoded[:, 0] == 255).all(), "transparent pixels are white"
    assert np.array_equal(decoded[:, 1], chw(colour)[:, 1]), "opaque pixels keep their bytes"


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_composited_over_white(mode: str) -> None:
    straight = noise(2 if mode == "La" else 4)
    straight[..., -1] |= 0x80  # a colour that was multiplied by a small alpha has lost its digits
    image = Image.fromarray(straight, "LA" if mode == "La" else "RGBA").convert(mode)
    colour = straight[..., 0] if mode == "La" else straight[..., :3]
    decoded = to_array(image, GREY if mode == "La" else RGB)
    assert np.abs(decoded - chw(over_white(colour, straight[..., -1]))).max() <= 3


def test_opaque_rgba_is_rgb() -> None:
    opaque = np.dstack([noise(3), np.full(SIZE, 255, np.uint8)])
    expected = pil_to_tensor(Image.fromarray(opaque).convert("RGB")).numpy()
    assert np.array_equal(to_array(Image.fromarray(opaque), RGB), expected)


def test_palette_becomes_its_colours() -> None:
    assert np.array_equal(to_array(palette_image(FOUR_COLOURS), RGB), chw(palette_pixels(FOUR_COLOURS)))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_colour_becomes_white(tmp_path: Path, suffix: str) -> None:
    palette_image(FOUR_COLOURS).save(tmp_path / f"a.{suffix}", transparency=1)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.mode == "P" and "transparency" in image.info
    expected = chw(palette_pixels([FOUR_COLOURS[0], (255, 255, 255), *FOUR_COLOURS[2:]]))
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", RGB), expected)


def test_half_transparent_palette_is_composited_over_white(tmp_path: Path) -> None:
    alpha = bytes([255, 128, 0, 60])
    palette_image(FOUR_COLOURS).save(tmp_path / "a.png", transparency=alpha)
    alphas = np.array([alpha[i % 4] for i in range(HEIGHT * WIDTH)]).reshape(SIZE)
    decoded = decode(tmp_path / "a.png", RGB)
    assert np.abs(decoded - chw(over_white(palette_pixels(FOUR_COLOURS), alphas))).max() <= 1


def test_cmyk_becomes_rgb() -> None:
    pixels = noise(4)
    ink, black = pixels[..., :3] / 255, pixels[..., 3:] / 255
    decoded = to_array(Image.fromarray(pixels, "CMYK"), RGB)
    assert np.abs(decoded - chw(255 * (1 - ink) * (1 - black))).max() <= 1


def test_first_frame_of_an_animation_is_decoded(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(1, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(tmp_path / "a.gif", GREY)[0], noise(1, 0))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(1)).save(tmp_path / "a.png", exif=exif)
    upright = UPRIGHT[orientation](noise(1))
    assert np.array_equal(decode(tmp_path / "a.png", ImageSpec(1, upright.shape, "pad", False))[0], upright)


def test_pad_keeps_all_inside_black_borders() -> None:
    white = Image.new("RGB", (8, 4), "white")
    decoded = to_array(white, ImageSpec(3, (8, 8), "pad", False))
    assert (decoded[:, 2:6] == 255).all()
    assert (decoded[:, :2] == 0).all() and (decoded[:, 6:] == 0).all()


def test_crop_fills_the_size_with_the_centre() -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = noise(1)[:4, :4]
    assert np.array_equal(to_array(Image.fromarray(pixels), ImageSpec(1, (4, 4), "crop", False))[0], pixels[:, 2:6])


def test_stretch_changes_the_aspect_ratio() -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 200
    decoded = to_array(Image.fromarray(pixels), ImageSpec(1, (4, 2), "stretch", False))[0]
    assert decoded.shape == (4, 2)
    assert (decoded[:, 0] > 150).all() and (decoded[:, 1] < 50).all()
    assert np.abs(decoded.sum(1, dtype=int) - 200).max() <= 1, "both halves together keep their light"


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(5, 5), (3, 11), (12, 2), (1, 1), (20, 30)])
def test_every_resize_gives_the_size(resize: Resize, size: tuple[int, int]) -> None:
    for channels in (1, 3):
        decoded = to_array(Image.fromarray(noise(channels)), ImageSpec(channels, size, resize, False))
        assert decoded.shape == (channels, *size) and decoded.dtype == np.uint8


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_image_of_the_size_keeps_its_bytes(resize: Resize) -> None:
    assert np.array_equal(to_array(Image.fromarray(noise(1)), ImageSpec(1, SIZE, resize, False))[0], noise(1))


def corrupt(kind: str) -> bytes:
    if kind == "empty":
        return b""
    if kind == "html":
        return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    if kind == "bomb":
        return png_claiming(30_000, 30_000)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "the file is empty"),
        ("html", "not an image that Pillow reads"),
        ("bomb", "exceeds limit"),
        ("jpeg", "image file is truncated"),
        ("png", "image file is truncated"),
        ("gif", "image file is truncated"),
        ("bmp", "image file is truncated"),
        ("webp", "could not"),
    ],
)
def test_corrupt_file_gives_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(corrupt(kind))
    answer = decode(tmp_path / "a.jpg", ImageSpec(3, (64, 64), "pad", False))
    assert isinstance(answer, str) and reason in answer
    assert "\n" not in answer and str(tmp_path) not in answer
    assert isinstance(read_header(tmp_path / "a.jpg"), str | ImageHeader)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_corrupt_avif_gives_the_reason(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(3)).save(file, "avif")
    whole = file.getvalue()
    (tmp_path / "a.avif").write_bytes(whole[: whole.index(b"mdat") + 4] + bytes(len(whole)))
    assert isinstance(decode(tmp_path / "a.avif", RGB), str)


@pytest.mark.parametrize("missing", ["nothing.png", "broken_link.png"])
def test_missing_file_gives_the_reason(tmp_path: Path, missing: str) -> None:
    (tmp_path / "broken_link.png").symlink_to(tmp_path / "gone.png")
    assert read_header(tmp_path / missing) == "no such file or directory"
    assert decode(tmp_path / missing, RGB) == "no such file or directory"
