"""Images that anybody may have sent are decoded as those on disk, or refused before they cost much."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import uploads
from datamodules.storage.decode import ImageSpec, decode
from datamodules.uploads import decode_upload

SPEC = ImageSpec(3, (32, 32), "pad", True)


def encoded(file_format: str, size: tuple[int, int] = (90, 70), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1000))]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_pixels_are_those_of_a_file_on_disk(tmp_path: Path, file_format: str) -> None:
    content = encoded(file_format)
    (tmp_path / "image").write_bytes(content)
    assert np.array_equal(decode_upload(content, SPEC), decode(str(tmp_path / "image"), SPEC))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"GIF89a", "not an image that Pillow reads"),
        (encoded("TIFF"), "not an image that Pillow reads"),
        (png_header(60_000, 60_000), "exceeds limit of"),
        (png_header(10_000, 6_000), "10000 × 6000 pixels, more than 50,000,000"),
        (encoded("JPEG")[:-900], "truncated"),
    ],
    ids=["empty", "header", "other format", "bomb", "many pixels", "truncated"],
)
def test_hostile_file_has_a_reason(content: bytes, reason: str) -> None:
    answer = decode_upload(content, SPEC)
    assert isinstance(answer, str) and reason in answer


def test_jpeg_of_many_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded("JPEG", progressive=True)
    scans = content.count(b"\xff\xda")
    assert 5 < scans < 20 and not isinstance(decode_upload(content, SPEC), str)
    monkeypatch.setattr(uploads, "MAX_SCANS", scans - 1)
    assert decode_upload(content, SPEC) == f"a JPEG of more than {scans - 1} scans"
