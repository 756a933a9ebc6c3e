"""Every kind of image becomes the bytes that an independent computation gives; damaged files are answered."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.storage.decode import ImageSpec, Resize, decode, to_array
from datamodules.storage.image_header import Probe, common_size, probe
from tests.samples import UPRIGHT

HEIGHT, WIDTH = 6, 9
SIZE = (HEIGHT, WIDTH)


def noise(channels: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, channels], without the last axis for one channel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Compositing in real numbers: float64 of the shape of `colour`."""
    share = alpha[..., None] / 255 if colour.ndim == 3 else alpha / 255
    return colour * share + 255.0 * (1 - share)


def chw(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def palette_image(colours: list[tuple[int, int, int]]) -> Image.Image:
    """Mode P; pixel (y, x) shows colour (y * WIDTH + x) % len(colours)."""
    image = Image.frombytes("P", (WIDTH, HEIGHT), bytes(i % len(colours) for i in range(HEIGHT * WIDTH)))
    image.putpalette([value for colour in colours for value in colour])
    return image


def colours_of(colours: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array([colours[i % len(colours)] for i in range(HEIGHT * WIDTH)], np.uint8).reshape(HEIGHT, WIDTH, 3)


FOUR = [(255, 0, 0), (10, 200, 30), (0, 0, 255), (90, 90, 90)]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_grey_and_rgb_are_what_torchvision_gives(mode: str, channels: int) -> None:
    image = Image.fromarray(noise(channels))
    assert image.mode == mode
    assert np.array_equal(to_array(image, ImageSpec(channels, SIZE, "pad", False)), pil_to_tensor(image).numpy())


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_files_are_what_torchvision_gives(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(noise(3)).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        theirs = pil_to_tensor(image).numpy()
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", ImageSpec(3, SIZE, "pad", False)), theirs)


def test_grey_is_repeated_where_three_channels_are_wanted() -> None:
    pixels = noise(1)
    assert np.array_equal(to_array(Image.fromarray(pixels), ImageSpec(3, SIZE, "pad", False)), np.stack([pixels] * 3))


def test_rgb_becomes_luminance_where_one_channel_is_wanted() -> None:
    pixels = noise(3)
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(to_array(Image.fromarray(pixels), ImageSpec(1, SIZE, "pad", False))[0] - luminance).max() <= 1


def test_one_bit_becomes_black_and_white() -> None:
    bits = noise(1) > 127
    ours = to_array(
        Image.fromarray(np.uint8(255) * bits).convert("1", dither=Image.Dither.NONE), ImageSpec(1, SIZE, "pad", False)
    )
    assert np.array_equal(ours[0], np.where(bits, 255, 0))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_not_saturated(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, SIZE)
    values.flat[:6] = [0, 128, 129, 65406, 65407, 65535]  # around the first and the last step, rounding half
    image = Image.fromarray(values.astype(np.uint16))
    image = image if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert image.mode == mode
    expected = np.floor(values * 255 / 65535 + 0.5)
    assert np.array_equal(to_array(image, ImageSpec(1, SIZE, "pad", False))[0], expected)
    image.save(tmp_path / "a.tif")
    assert np.array_equal(decode(tmp_path / "a.tif", ImageSpec(1, SIZE, "pad", False))[0], expected)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_are_refused(value: int) -> None:
    image = Image.fromarray(np.full(SIZE, value, np.int32))
    assert decode(image, ImageSpec(1, SIZE, "pad", False)) == "mode I with values outside 0 … 65535"


def test_floating_point_is_refused() -> None:
    image = Image.fromarray(np.zeros(SIZE, np.float32))
    assert image.mode == "F"
    assert "range of floating-point pixels is unknown" in str(decode(image, ImageSpec(1, SIZE, "pad", False)))


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_alpha_is_laid_over_white(mode: str, channels: int) -> None:
    pixels = noise(channels + 1)
    pixels[0, :, -1], pixels[1, :, -1] = 0, 255
    colour = pixels[..., 0] if channels == 1 else pixels[..., :3]
    ours = to_array(Image.fromarray(pixels, mode), ImageSpec(channels, SIZE, "pad", False))
    assert np.abs(ours - chw(over_white(colour, pixels[..., -1]))).max() <= 1
    assert (ours[:, 0] == 255).all(), "what is fully transparent is white"
    assert np.array_equal(ours[:, 1], chw(colour)[:, 1]), "what is opaque keeps its bytes"


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_laid_over_white(mode: str) -> None:
    straight = noise(2 if mode == "La" else 4)
    straight[..., -1] |= 0x80  # a colour that was multiplied by a small alpha has lost its digits
    image = Image.fromarray(straight, "LA" if mode == "La" else "RGBA").convert(mode)
    colour = straight[..., 0] if mode == "La" else straight[..., :3]
    ours = to_array(image, ImageSpec(1 if mode == "La" else 3, SIZE, "pad", False))
    assert np.abs(ours - chw(over_white(colour, straight[..., -1]))).max() <= 3


def test_opaque_rgba_is_rgb() -> None:
    opaque = np.dstack([noise(3), np.full(SIZE, 255, np.uint8)])
    expected = pil_to_tensor(Image.fromarray(opaque).convert("RGB")).numpy()
    assert np.array_equal(to_array(Image.fromarray(opaque), ImageSpec(3, SIZE, "pad", False)), expected)


def test_palette_becomes_its_colours() -> None:
    assert np.array_equal(to_array(palette_image(FOUR), ImageSpec(3, SIZE, "pad", False)), chw(colours_of(FOUR)))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_colour_becomes_white(tmp_path: Path, suffix: str) -> None:
    palette_image(FOUR).save(tmp_path / f"a.{suffix}", transparency=1)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.mode == "P" and "transparency" in image.info
    expected = chw(colours_of([FOUR[0], (255, 255, 255), *FOUR[2:]]))
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", ImageSpec(3, SIZE, "pad", False)), expected)


def test_half_transparent_palette_is_laid_over_white(tmp_path: Path) -> None:
    alpha = bytes([255, 128, 0, 60])
    palette_image(FOUR).save(tmp_path / "a.png", transparency=alpha)
    each = np.array([alpha[i % 4] for i in range(HEIGHT * WIDTH)]).reshape(SIZE)
    ours = decode(tmp_path / "a.png", ImageSpec(3, SIZE, "pad", False))
    assert np.abs(ours - chw(over_white(colours_of(FOUR), each))).max() <= 1


def test_cmyk_becomes_rgb() -> None:
    pixels = noise(4)
    ink, black = pixels[..., :3] / 255, pixels[..., 3:] / 255
    ours = to_array(Image.fromarray(pixels, "CMYK"), ImageSpec(3, SIZE, "pad", False))
    assert np.abs(ours - chw(255 * (1 - ink) * (1 - black))).max() <= 1


def test_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(1, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(tmp_path / "a.gif", ImageSpec(1, SIZE, "pad", False))[0], noise(1, 0))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(1)).save(tmp_path / "a.png", exif=exif)
    upright = UPRIGHT[orientation](noise(1))
    assert probe(tmp_path / "a.png") == Probe(True, *upright.shape)
    assert np.array_equal(decode(tmp_path / "a.png", ImageSpec(1, upright.shape, "pad", False))[0], upright)


def test_pad_keeps_all_inside_black_borders() -> None:
    white = Image.new("RGB", (8, 4), "white")
    ours = to_array(white, ImageSpec(3, (8, 8), "pad", False))
    assert (ours[:, 2:6] == 255).all()
    assert (ours[:, :2] == 0).all() and (ours[:, 6:] == 0).all()


def test_crop_fills_the_size_with_the_centre() -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = noise(1)[:4, :4]
    assert np.array_equal(to_array(Image.fromarray(pixels), ImageSpec(1, (4, 4), "crop", False))[0], pixels[:, 2:6])


def test_stretch_changes_the_aspect_ratio() -> None:
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, :4] = 200
    ours = to_array(Image.fromarray(pixels), ImageSpec(1, (4, 2), "stretch", False))[0]
    assert ours.shape == (4, 2)
    assert (ours[:, 0] > 150).all() and (ours[:, 1] < 50).all()
    assert np.abs(ours.sum(1, dtype=int) - 200).max() <= 1, "both halves together keep their light"


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size", [(5, 5), (3, 11), (12, 2), (1, 1), (20, 30)])
def test_every_resize_gives_the_wanted_size(resize: Resize, size: tuple[int, int]) -> None:
    for channels in (1, 3):
        ours = to_array(Image.fromarray(noise(channels)), ImageSpec(channels, size, resize, False))
        assert ours.shape == (channels, *size) and ours.dtype == np.uint8


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_an_image_of_the_wanted_size_keeps_its_bytes(resize: Resize) -> None:
    assert np.array_equal(to_array(Image.fromarray(noise(1)), ImageSpec(1, SIZE, resize, False))[0], noise(1))


def png_header_of(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def damaged(kind: str) -> bytes:
    if kind == "empty":
        return b""
    if kind == "html":
        return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    if kind == "bomb":
        return png_header_of(30_000, 30_000)
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
def test_damaged_files_are_answered_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(damaged(kind))
    answer = decode(tmp_path / "a.jpg", ImageSpec(3, (64, 64), "pad", False))
    assert isinstance(answer, str) and reason in answer
    assert "\n" not in answer and str(tmp_path) not in answer
    assert isinstance(probe(tmp_path / "a.jpg"), str | Probe)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_is_answered_with_the_reason(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(3)).save(file, "avif")
    whole = file.getvalue()
    (tmp_path / "a.avif").write_bytes(whole[: whole.index(b"mdat") + 4] + bytes(len(whole)))
    assert isinstance(decode(tmp_path / "a.avif", ImageSpec(3, SIZE, "pad", False)), str)


@pytest.mark.parametrize("missing", ["nothing.png", "broken_link.png"])
def test_missing_files_are_answered_with_the_reason(tmp_path: Path, missing: str) -> None:
    (tmp_path / "broken_link.png").symlink_to(tmp_path / "gone.png")
    assert probe(tmp_path / missing) == "no such file or directory"
    assert decode(tmp_path / missing, ImageSpec(3, SIZE, "pad", False)) == "no such file or directory"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "RGB", "RGBA", "CMYK", "P"])
def test_probe_tells_what_decoding_gives(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = palette_image(FOUR)
    elif mode in ("I;16", "I"):
        image = Image.fromarray(noise(1).astype(np.uint16 if mode == "I;16" else np.int32) * 200)
    else:
        image = Image.fromarray(noise(3)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I") else "a.png")
    image.save(path)
    header = probe(path)
    assert isinstance(header, Probe)
    pixels = decode(path, ImageSpec(3, (header.height, header.width), "pad", False))
    assert pixels.shape == (3, HEIGHT, WIDTH)
    assert header.grey == bool((pixels == pixels[0]).all())


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "tga"])
@pytest.mark.parametrize("grey", [False, True])
def test_probe_sees_whether_a_palette_is_grey(tmp_path: Path, suffix: str, grey: bool) -> None:
    colours = [(level, level, level) for level in (10, 250, 90)] if grey else FOUR
    palette_image(colours).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels, colours_of(colours))
    assert probe(tmp_path / f"a.{suffix}") == Probe(grey, HEIGHT, WIDTH)


def test_images_that_share_a_small_size_keep_it() -> None:
    assert common_size([Probe(True, 28, 30)] * 3) == (28, 30)
    assert common_size([Probe(True, 256, 100)]) == (256, 100)


def test_large_or_mixed_images_get_a_square_of_the_median_shorter_side() -> None:
    assert common_size([Probe(False, 257, 100)]) == (100, 100)
    assert common_size([Probe(False, 40, 90), Probe(False, 70, 60), Probe(False, 50, 500)]) == (50, 50)
    assert common_size([Probe(False, 4000, 3000)] * 2 + [Probe(False, 30, 40)]) == (224, 224)


def test_without_a_readable_image_there_is_a_size_all_the_same() -> None:
    assert common_size([]) == (224, 224)
