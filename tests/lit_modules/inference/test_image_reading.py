"""The example beside an export reads files as task=predict does, and so does the resize in the graph."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from datamodules.storage.decode import ImageSpec, decode, to_array
from lit_modules.inference.any_size import AnySize
from lit_modules.inference.export_example import example
from lit_modules.inference.image_reading import ANY_SIZE, preprocessing

SPECS = [
    ImageSpec(channels, size, resize, draft, interpolation)  # type: ignore[arg-type]
    for channels, size, resize, draft, interpolation in product(
        (1, 3), ((24, 24), (16, 41)), ("pad", "crop", "stretch"), (True, False), ("bilinear", "bicubic")
    )
]
PHOTOGRAPH = np.ascontiguousarray(load_sample_images().images[0][:214, :321])


def contract_of(spec: ImageSpec, **inputs: Any) -> dict[str, Any]:
    shape = ["batch", spec.channels, *spec.size]
    return spec._asdict() | {"inputs": {"shape": shape, "dtype": "uint8"} | inputs}


def reader(spec: ImageSpec, **inputs: Any) -> Callable[[Path], np.ndarray]:
    """The function in the text of the example."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(example("torch_export", contract_of(spec, **inputs)), namespace)
    read: Callable[[Path], np.ndarray] = namespace["read"]
    return read


def files(folder: Path) -> list[Path]:
    """A photograph in several modes and formats."""
    image, alpha = Image.fromarray(PHOTOGRAPH), Image.linear_gradient("L").resize((321, 214))
    transparent, palette = image.copy(), image.quantize(16)
    transparent.putalpha(alpha)
    grey = image.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.jpg": (image, {}), "grey.jpg": (grey, {}), "turned.jpg": (image, {"exif": turned}),
        "cmyk.jpg": (image.convert("CMYK"), {}), "rgb.png": (image, {}), "turned.png": (image, {"exif": turned}),
        "rgba.png": (transparent, {}), "la.png": (Image.merge("LA", (grey, alpha)), {}), "p.png": (palette, {}),
        "p_transparent.png": (palette, {"transparency": 3}), "one.png": (image.convert("1"), {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [grey.quantize(8)], "transparency": 2}),
        "sixteen.png": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 - 3), {}),
        "narrow.jpg": (image.resize((400, 3)), {}),
    }  # fmt: skip
    for name, (content, options) in images.items():
        content.save(folder / name, **options)
    return [folder / name for name in images]


@pytest.mark.parametrize("spec", SPECS[::7])
def test_the_example_reads_each_mode_as_predict_does(tmp_path: Path, spec: ImageSpec) -> None:
    read = reader(spec)
    for path in files(tmp_path):
        inputs = read(path)
        assert np.array_equal(inputs[0], decode(str(path), spec)), path.name
        assert inputs.flags.c_contiguous  # ExecuTorch ignores strides
    scaled = reader(spec, dtype="float32")(path)
    assert scaled.dtype == np.float32 and np.array_equal(scaled, read(path) / np.float32(255))


def test_the_draft_is_what_makes_the_difference(tmp_path: Path) -> None:
    spec = SPECS[0]
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "a.jpg")
    with_draft, without = (reader(spec._replace(jpeg_draft=draft))(tmp_path / "a.jpg") for draft in (True, False))
    assert spec.jpeg_draft and not np.array_equal(with_draft, without)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_the_example_refuses_32_bits_in_one_line(tmp_path: Path, mode: str) -> None:
    Image.fromarray(PHOTOGRAPH).convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(SystemExit, match=r"a\.tif: pixels of 32 bits; convert it to 8 or 16 bits$"):
        reader(SPECS[0])(tmp_path / "a.tif")


class Pixels(nn.Module):
    """Returns what it is given, in place of probabilities."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def columns_first(height: int, width: int, spec: ImageSpec) -> bool:
    """Whether Pillow 13 resizes the columns first: see Pillow's pull request 9549."""
    target_height, target_width = spec.size
    if spec.resize == "pad":
        scale = min(target_height / height, target_width / width)
        target_height, target_width = round(height * scale), round(width * scale)
    return height > target_height and height - target_height > 2 * (width - target_width)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.jpeg_draft][::2] + SPECS[-1:])
def test_the_resize_in_the_graph_equals_pillow(spec: ImageSpec) -> None:
    resize = AnySize(Pixels(), spec.channels, spec.size, spec.resize, spec.interpolation)  # type: ignore[arg-type]
    for height, width in ((214, 321), (5, 7), (24, 24), (1, 99), (214, 120), (99, 16)):
        pixels = PHOTOGRAPH[:height, :width]
        resized = resize(torch.from_numpy(pixels.copy())[None])[0].numpy()
        difference = np.abs(resized.astype(int) - to_array(Image.fromarray(pixels), spec)).max()
        assert difference <= columns_first(height, width, spec), (height, width)


def test_the_example_leaves_the_resize_to_the_graph(tmp_path: Path) -> None:
    Image.fromarray(PHOTOGRAPH).convert("L").save(tmp_path / "a.png")
    pixels = reader(SPECS[0], shape=ANY_SIZE)(tmp_path / "a.png")
    assert pixels.shape == (1, *PHOTOGRAPH.shape) and pixels.dtype == np.uint8


def test_the_contract_says_each_step() -> None:
    spec = ImageSpec(1, (24, 40), "pad", True, "bicubic")
    steps = "; ".join(preprocessing(contract_of(spec)))
    for words in ("JPEG", "at least 40 pixels", "EXIF", "over white", "24 x 40", "black", "bicubic", "19595 R"):
        assert words in steps, words
    undrafted = preprocessing(contract_of(spec._replace(jpeg_draft=False, channels=3)))
    assert undrafted[0] == "decoded at full resolution" and "channels R, G, B" in undrafted
