"""Images and references that tests of decoding and of duplicates share."""

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

HEIGHT, WIDTH = 6, 9
FOUR_COLOURS = [(255, 0, 0), (10, 200, 30), (0, 0, 255), (90, 90, 90)]
FIELD = 64
FIELD_SIDE = 32
# The inverse of each EXIF orientation, as NumPy operations on [H, W]; from the EXIF 2.32 standard, tag 0x0112.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, 1),
}


def noise(channels: int, seed: int = 0) -> np.ndarray:
    """uint8 `[HEIGHT, WIDTH, channels]`, without the last axis for one channel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def palette_image(colours: list[tuple[int, int, int]]) -> Image.Image:
    """Mode P of HEIGHT × WIDTH; pixel (y, x) has colour (y * WIDTH + x) % len(colours)."""
    image = Image.frombytes("P", (WIDTH, HEIGHT), bytes(i % len(colours) for i in range(HEIGHT * WIDTH)))
    image.putpalette([value for colour in colours for value in colour])
    return image


def palette_pixels(colours: list[tuple[int, int, int]]) -> np.ndarray:
    """The pixels of `palette_image`: uint8 `[HEIGHT, WIDTH, 3]`."""
    return np.array([colours[i % len(colours)] for i in range(HEIGHT * WIDTH)], np.uint8).reshape(HEIGHT, WIDTH, 3)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha compositing in real numbers: colour `[H, W]` or `[H, W, C]`, alpha `[H, W]` in 0 … 255 → float64."""
    opacity = alpha[..., None] / 255 if colour.ndim == 3 else alpha / 255
    return colour * opacity + 255.0 * (1 - opacity)


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@cache
def photographs() -> list[Image.Image]:
    """64 different images of 32×32: fields of two photographs, without those of almost no contrast."""
    fields = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[0] // FIELD, photograph.shape[1] // FIELD
        for number in range(height * width):
            y, x = number // width * FIELD, number % width * FIELD
            field = Image.fromarray(photograph[y : y + FIELD, x : x + FIELD]).resize((FIELD_SIDE, FIELD_SIDE))
            if np.std(np.diff(np.asarray(field.convert("L")).astype(float))) > 4:
                fields.append(field)
    return fields
