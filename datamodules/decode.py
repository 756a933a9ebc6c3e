"""One picture file → uint8 CHW, whatever its mode. Needs no torch, so that worker processes start fast.

What each mode becomes, before it is brought to the wanted number of channels:

| mode                        | becomes                                                             |
|-----------------------------|---------------------------------------------------------------------|
| L, RGB                      | itself                                                              |
| 1                           | L: 0 or 255                                                         |
| I;16, I (16-bit grey)       | L: value · 255 / 65535, rounded (torchvision saturates instead)     |
| P                           | the colours of its palette; over white where it has transparency    |
| LA, La, PA, RGBA, RGBa      | L or RGB over white (dropping alpha would show hidden pixels)       |
| CMYK, YCbCr, HSV, LAB       | RGB as Pillow converts it                                           |
| F (floating point)          | refused: its range is unknown                                       |

EXIF rotation is applied. Of an animation the first frame is taken.
"""

import hashlib
import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Resize = Literal["pad", "crop", "stretch"]

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
SIXTEEN_BIT_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
ALPHA_MODES = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}
EXIF_ORIENTATION = 0x0112
# What Pillow raises for files that it cannot read.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
# Between its limit of pixels and twice that, from where on it refuses, Pillow warns; the picture is sound.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LARGEST_FIXED_SIZE = 256
# Bytes. Of what is larger, as a stack of frames is, most may not be needed.
ORDINARY_FILE = 32 * 2**20
DEFAULT_SIDE = 224


class Probe(NamedTuple):
    """What the header of a picture tells."""

    grey: bool
    height: int
    width: int


class Form(NamedTuple):
    """What a picture is brought to."""

    channels: int
    """1 or 3"""
    size: tuple[int, int]
    """height, width in pixels"""
    resize: Resize | Literal["refuse"]
    """For a picture of another size: `pad` keeps all of it inside black borders, `crop` fills the size with its centre,
    `stretch` changes its aspect ratio. Bilinear with antialiasing. `refuse` takes neither another size nor colours that
    would be lost."""
    draft: bool
    """Whether a JPEG of at least twice that size is decoded at 1/2, 1/4 or 1/8 of its own, which is faster."""


def open_picture(item: str | Image.Image, *, whole: bool = False) -> Image.Image:
    """Opens a picture file, whose pixels are decoded later; a picture in memory is itself.

    Args:
        whole: whether to read a file of ordinary size at once, from which Pillow decodes faster.
    """
    if isinstance(item, Image.Image):
        return item
    path = Path(item)
    if (size := path.stat().st_size) == 0:
        raise OSError("the file is empty")
    return Image.open(BytesIO(path.read_bytes()) if whole and size <= ORDINARY_FILE else path)


def probe(item: str | Image.Image) -> Probe | str:
    """Colour and size, after EXIF rotation, from the header alone where the format allows; if damaged, the reason."""
    try:
        with open_picture(item) as picture:
            return _probe(picture)
    except DAMAGE as error:
        return reason(error)


class UnlikeError(Exception):
    """A picture is of another form, and may not be brought to it."""


def decode(item: str | Image.Image, form: Form) -> np.ndarray | str:
    """The pixels as `to_array` gives them; for a damaged file the reason.

    Raises:
        UnlikeError: its header tells of what `form` refuses.
    """
    try:
        with open_picture(item, whole=True) as picture:
            if form.resize == "refuse" and not _fits(picture, form):
                raise UnlikeError
            if form.draft:
                picture.draft("", (max(form.size), max(form.size)))  # which other formats pass over
            return to_array(picture, form)
    except DAMAGE as error:
        return reason(error)


def probe_all(items: Sequence[str | Image.Image]) -> list[Probe | str]:
    """`probe` for a worker process, to which many pictures are sent at once."""
    return [probe(item) for item in items]


class Header(NamedTuple):
    """What a picture file is, before anything is done to it but EXIF rotation."""

    format: str | None
    """As Pillow calls it; None of a picture in memory"""
    mode: str
    height: int
    width: int


def headers(items: Sequence[str | Image.Image]) -> list[Header | None]:
    """What many pictures are; None for those whose header cannot be read."""
    found: list[Header | None] = []
    for item in items:
        try:
            with open_picture(item) as picture:
                size = _probe(picture)
                found.append(Header(picture.format, picture.mode, size.height, size.width))
        except DAMAGE:
            found.append(None)
    return found


class Decoded(NamedTuple):
    """Some pictures, one after another."""

    pixels: np.ndarray
    """uint8 `[N, channels, height, width]`; black where damaged, none where they were written to a file"""
    digests: np.ndarray
    """See `digests`"""
    bad: dict[int, str]
    """The reason at the position of each damaged one"""


def decode_all(items: Sequence[str | Image.Image], form: Form, latest: float = math.inf) -> Decoded:
    """`decode` for a worker process, to which many pictures are sent at once. A file changed after `latest`, in seconds
    since 1970, counts as damaged."""
    pixels = np.zeros((len(items), form.channels, *form.size), np.uint8)
    bad = {}
    for i, item in enumerate(items):
        found = decode(item, form)
        if isinstance(found, str):
            bad[i] = found
        elif isinstance(item, str) and latest < math.inf and Path(item).stat().st_mtime > latest:
            bad[i] = "changed while it was in use"
        else:
            pixels[i] = found
    return Decoded(pixels, digests(pixels), bad)


def decode_to(file: Path, form: Form, task: tuple[int, Sequence[str | Image.Image]]) -> Decoded:
    """`decode_all` for a worker process that writes the pixels into a file itself, from a byte of it on: that process
    and the one that waits for it are spared from packing, sending and unpacking them."""
    start, items = task
    found = decode_all(items, form)
    with open(file, "r+b") as target:
        target.seek(start)
        target.write(found.pixels.data)
    return found._replace(pixels=found.pixels[:0])


def digests(pixels: np.ndarray) -> np.ndarray:
    """A number for the bytes of each sample, uint64 `[N]`: equal for equal samples, else different but by a chance of
    2⁻⁶⁴ a pair."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    found = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)  # type: ignore[arg-type]
    return np.frombuffer(found, np.uint64)


def reason(error: BaseException) -> str:
    """Why a file could not be read, without its path, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0]


def _probe(picture: Image.Image) -> Probe:
    width, height = picture.size
    # Asking a PNG without EXIF for it would read all pixels.
    exif = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else {}
    if exif.get(EXIF_ORIENTATION, 1) >= 5:  # 5 to 8 turn by 90 degrees
        width, height = height, width
    grey = picture.mode in GREY_MODES or (picture.mode == "P" and _grey_palette(picture))
    return Probe(grey, height, width)


def _fits(picture: Image.Image, form: Form) -> bool:
    try:
        found = _probe(picture)
    except DAMAGE:  # perhaps of the header alone
        return False
    return (found.height, found.width) == form.size and (found.grey or form.channels == 3)


def to_array(picture: Image.Image, form: Form) -> np.ndarray:
    """The pixels of a PIL image of any mode: uint8 `[channels, height, width]`.

    Raises:
        OSError, ValueError, SyntaxError: the file is damaged or of a refused mode.
    """
    picture.load()  # a PNG may name its rotation behind its pixels
    if picture.getexif().get(EXIF_ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    picture = to_grey_or_rgb(picture)
    if (picture.height, picture.width) != form.size:
        wanted = (form.size[1], form.size[0])
        if form.resize == "pad":
            picture = _pad(picture, wanted)
        elif form.resize == "crop":
            picture = ImageOps.fit(picture, wanted, Image.Resampling.BILINEAR)
        else:
            picture = picture.resize(wanted, Image.Resampling.BILINEAR)
    mode = "L" if form.channels == 1 else "RGB"
    array = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    return array[None] if form.channels == 1 else array.transpose(2, 0, 1)  # [H, W, C] → [C, H, W]


def _pad(picture: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """All of a picture in the middle of (width, height). Pillow's own leaves nothing of a very long one."""
    scale = min(side / own for side, own in zip(wanted, picture.size, strict=True))
    inner = [max(1, round(own * scale)) for own in picture.size]
    whole = Image.new(picture.mode, wanted)
    corner = [round((side - kept) / 2) for side, kept in zip(wanted, inner, strict=True)]
    whole.paste(picture.resize((inner[0], inner[1]), Image.Resampling.BILINEAR), (corner[0], corner[1]))
    return whole


def to_grey_or_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as mode L or RGB, by the table above."""
    mode = picture.mode
    if mode in ("L", "RGB"):
        return picture
    if mode in SIXTEEN_BIT_MODES:
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {mode} with values outside 0 … 65535")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if mode == "F":
        raise ValueError("mode F: the range of floating-point pixels is unknown")
    if mode == "P" and "transparency" in picture.info:
        picture, mode = picture.convert("RGBA"), "RGBA"
    if mode in ALPHA_MODES:
        opaque = ALPHA_MODES[mode]
        layer = picture.convert("LA" if opaque == "L" else "RGBA")
        white = Image.new(opaque, picture.size, "white")
        white.paste(layer.convert(opaque), mask=layer.getchannel("A"))
        return white
    return picture.convert("L" if mode == "1" else "RGB")


def common_size(probes: list[Probe]) -> tuple[int, int]:
    """The size pictures are brought to when the user names none: their own if they share one of at most 256 pixels a
    side, else a square of the median shorter side, of at most 224."""
    sizes = {(item.height, item.width) for item in probes}
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_FIXED_SIZE:
        return sizes.pop()
    shorter = [min(item.height, item.width) for item in probes] or [DEFAULT_SIDE]  # none: what is damaged is said later
    side = min(DEFAULT_SIDE, int(np.median(shorter)))
    return side, side


def _grey_palette(picture: Image.Image) -> bool:
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return "transparency" not in picture.info and bool((colours == colours[:, :1]).all())
