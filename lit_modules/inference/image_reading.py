"""How an image file becomes the input of an exported model: in words, and as a function of Pillow and NumPy.

It must equal `datamodules/storage/decode.py`. Each export executes the function to check that, so nothing but integers
and words of the tables below gets into its source.
"""

from typing import Any

import PIL

ANY_SIZE = ["batch", "height", "width", 3]
FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC"}
FIT = {
    "pad": """\
    scale = min({width:d} / image.width, {height:d} / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resized = image.resize((width, height), Image.Resampling.{filter})
    image = Image.new("RGB", ({width:d}, {height:d}))
    image.paste(resized, (round(({width:d} - width) / 2), round(({height:d} - height) / 2)))
""",
    "crop": "    image = ImageOps.fit(image, ({width:d}, {height:d}), Image.Resampling.{filter})\n",
    "stretch": "    image = image.resize(({width:d}, {height:d}), Image.Resampling.{filter})\n",
}
RESIZING = {
    "pad": "to fit into {height} x {width} pixels, at least 1 pixel a side; centred on black",
    "crop": "so that its centre fills {height} x {width} pixels",
    "stretch": "to {height} x {width} pixels",
}


def read_function(contract: dict[str, Any]) -> str:
    """Source code of `read`: path → inputs `[1, …]` of an exported model.

    Args:
        contract: of the export, with the fields of `ImageSpec`.
    """
    height, width = contract["size"]
    shape = contract["inputs"]["shape"]
    side = max(height, width)
    draft = f'        image.draft("", ({side:d}, {side:d}))\n' if contract["jpeg_draft"] else ""
    resize = FIT[contract["resize"]].format(height=height, width=width, filter=FILTERS[contract["interpolation"]])
    array = "numpy.array(image)[None]"
    if shape == ANY_SIZE:
        resize = ""
    elif contract["channels"] == 1:
        array = 'numpy.array(image.convert("L"))[None, None]'
    else:  # contiguous, because ExecuTorch ignores strides
        array = "numpy.ascontiguousarray(numpy.array(image)[None].transpose(0, 3, 1, 2))"
    scale = " / numpy.float32(255)" if contract["inputs"]["dtype"] == "float32" else ""
    return f'''\
def read(path):
    """An image file as {contract["inputs"]["dtype"]} {[1, *shape[1:]]}."""
    with Image.open(path) as image:
{draft}        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        sys.exit(f"{{path}}: pixels of 32 bits; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((numpy.asarray(image).astype("int64") * 255 + 32767) // 65535).astype("uint8"))
    if image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info):
        transparent = image.convert("RGBA")
        image = Image.new("RGB", transparent.size, "white")
        image.paste(transparent, mask=transparent.getchannel("A"))
    image = image.convert("RGB")
{resize}    return {array}{scale}
'''


def preprocessing(contract: dict[str, Any]) -> list[str]:
    """The steps from a file to the probabilities, in words."""
    height, width = contract["size"]
    side = max(height, width)
    draft = "the least of 1/8, 1/4, 1/2 and 1 of its resolution (libjpeg's scaling) at which both sides have at least"
    in_graph = "in the model: " if contract["inputs"]["shape"] == ANY_SIZE else ""
    resizing = RESIZING[contract["resize"]].format(height=height, width=width)
    pillow = f"{contract['interpolation']} filter of Pillow {PIL.__version__}, which antialiases; 8 bits"
    grey = "grey: (19595 R + 38470 G + 7471 B) / 65536, rounded"
    return [
        f"a JPEG is decoded at {draft} {side} pixels" if contract["jpeg_draft"] else "decoded at full resolution",
        "the first frame of an animation",
        "turned as the EXIF orientation says",
        "16 bits of grey: value * 255 / 65535, rounded; 32 bits are refused",
        "transparency: composited over white",
        "any other mode: RGB as Pillow converts it (a palette to its colours; colour profiles are ignored)",
        f"{in_graph}resized {resizing}; {pillow}",
        in_graph + (grey if contract["channels"] == 1 else "channels R, G, B"),
        "in the model: values / 255" if contract["inputs"]["dtype"] == "uint8" else "values / 255",
        "in the model: normalization, network, temperature, probabilities",
    ]
