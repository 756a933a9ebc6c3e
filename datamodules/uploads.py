"""Decodes images that anybody may have sent, with tighter bounds than those of a file on disk. Imports no torch."""

from io import BytesIO

import numpy as np
from PIL import Image

from datamodules.storage.decode import ImageSpec, decode
from datamodules.storage.image_header import READ_ERRORS, image_formats, reason

FORMATS = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF"}  # what browsers show; the decoders of others are slower
MAX_PIXELS = 50_000_000  # 150 MB in RGB
# Each scan of a progressive JPEG goes over all pixels, and takes a hundred bytes of a file. Cameras write about ten.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"


def decode_upload(content: bytes, spec: ImageSpec) -> np.ndarray | str:
    """The pixels of an image file, uint8 `[channels, height, width]`, or the reason why it is refused."""
    try:
        image = Image.open(BytesIO(content), formats=[name for name in image_formats() if name in FORMATS])
    except READ_ERRORS as error:
        return reason(error) if content else "the file is empty"
    if image.width * image.height > MAX_PIXELS:
        return f"{image.width} × {image.height} pixels, more than {MAX_PIXELS:,}"
    if image.format in ("JPEG", "MPO") and content.count(START_OF_SCAN) > MAX_SCANS:
        return f"a JPEG of more than {MAX_SCANS} scans"
    return decode(image, spec)
