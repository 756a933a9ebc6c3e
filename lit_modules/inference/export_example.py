"""Generates the example program that is written next to an export."""

from typing import Any

IMPORTS = {
    "torch_export": "import torch\n",
    "onnx": "import onnxruntime\n",
    "safetensors": "import torch\nfrom safetensors.torch import load_file\n",
}
LOAD = {
    "torch_export": """\
program = torch.export.load("model.pt2", extra_files=(extra := {"contract.json": ""}))
class_names = json.loads(extra["contract.json"])["class_names"]
probabilities = program.module()(torch.tensor(inputs))[0].tolist()
""",
    "onnx": """\
session = onnxruntime.InferenceSession("model.onnx")
class_names = json.loads(session.get_modelmeta().custom_metadata_map["contract"])["class_names"]
probabilities = session.run(None, {"inputs": inputs})[0][0].tolist()
""",
    "safetensors": """\
program = torch.export.load("model.pt2", extra_files=(extra := {"contract.json": ""}))
class_names = json.loads(extra["contract.json"])["class_names"]
(model := program.module()).load_state_dict(load_file("model.safetensors"))
probabilities = model(torch.tensor(inputs))[0].tolist()
""",
}
SET = """\
masses = [sum(other for other in probabilities if other <= probability) for probability in probabilities]
print("set:", [name for name, mass in zip(class_names, masses, strict=True) if mass >= {threshold!r}])
"""
FIT = {
    "pad": "ImageOps.pad(image, ({width}, {height}), Image.Resampling.{filter})",
    "crop": "ImageOps.fit(image, ({width}, {height}), Image.Resampling.{filter})",
    "stretch": "image.resize(({width}, {height}), Image.Resampling.{filter})",
}


def example(file_format: str, contract: dict[str, Any]) -> str:
    """Source code of a program that prints the class probabilities of one sample."""
    resize = contract["resize"]
    channels, *size = contract["inputs"]["shape"][1:]
    dtype = contract["inputs"]["dtype"]
    if resize:
        height, width = size
        mode = "L" if channels == 1 else "RGB"
        scale = " / numpy.float32(255)" if dtype == "float32" else ""
        sample, imports = "an 8-bit image without transparency", "from PIL import Image, ImageOps\n"
        read = f"""\
image = Image.open(sys.argv[1]).convert("{mode}")
image = {FIT[resize].format(height=height, width=width, filter=contract["interpolation"].upper())}
inputs = numpy.asarray(image).reshape(1, {height}, {width}, {channels}).transpose(0, 3, 1, 2){scale}
"""
    else:
        sample, imports = f"one sample {[channels, *size]} of {'uint8' if dtype == 'uint8' else 'numbers'} as .npy", ""
        read = "inputs = numpy.load(sys.argv[1])[None]\n"
        if dtype == "float32":
            read += """\
inputs = inputs / numpy.float32(255) if inputs.dtype == numpy.uint8 else inputs.astype("float32")
"""
    threshold = contract.get("set threshold")
    sets = "" if threshold is None else SET.format(threshold=threshold)
    return f'''"""Class probabilities of {sample}: python example_{file_format}.py FILE"""

import json
import sys

import numpy
{IMPORTS[file_format]}{imports}
{read}{LOAD[file_format]}print(dict(zip(class_names, probabilities, strict=True)))
{sets}'''
