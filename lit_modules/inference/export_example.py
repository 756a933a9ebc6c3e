"""Generates the example program that is written next to an export."""

from textwrap import indent
from typing import Any

from lit_modules.inference.image_reading import read_function

IMPORTS = {
    "torch_export": "import torch\n",
    "onnx": "import onnxruntime\n",
    "safetensors": "import torch\nfrom safetensors.torch import load_file\n",
    "openvino": "import openvino\n",
    "executorch": "import torch\nfrom executorch.runtime import Runtime\n",
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
    "openvino": """\
model = openvino.compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
with open("contract.json", encoding="utf-8") as file:
    class_names = json.load(file)["class_names"]
probabilities = model(inputs)[0][0].tolist()
""",
    "executorch": """\
method = Runtime.get().load_program("model.pte").load_method("forward")
with open("contract.json", encoding="utf-8") as file:
    class_names = json.load(file)["class_names"]
probabilities = method.execute([torch.tensor(inputs)])[0][0].tolist()
""",
}
SET = """\
masses = [sum(other for other in probabilities if other <= probability) for probability in probabilities]
print("set:", [name for name, mass in zip(class_names, masses, strict=True) if mass >= {threshold!r}])
"""
LABELS = """\
labels = zip(class_names, probabilities, {thresholds}, strict=True)
print("labels:", [name for name, probability, threshold in labels if probability >= threshold])
"""
READ_ARRAY = {
    "uint8": """\
def read(path):
    return numpy.ascontiguousarray(numpy.load(path))[None]
""",
    "float32": """\
def read(path):
    inputs = numpy.ascontiguousarray(numpy.load(path))[None]
    return inputs / numpy.float32(255) if inputs.dtype == numpy.uint8 else inputs.astype("float32")
""",
}


def example(file_format: str, contract: dict[str, Any]) -> str:
    """Source code of a program that prints the class probabilities of one file, which its `read` reads."""
    dtype = contract["inputs"]["dtype"]
    if contract["resize"]:
        sample, imports, read = "an image file", "from PIL import Image, ImageOps\n", read_function(contract)
    else:
        shape = contract["inputs"]["shape"][1:]
        sample, imports = f"one sample {shape} of {'uint8' if dtype == 'uint8' else 'numbers'} as .npy", ""
        read = READ_ARRAY[dtype]
    threshold = contract.get("set threshold")
    sets = "" if threshold is None else SET.format(threshold=threshold)
    if "thresholds" in contract:
        sets = LABELS.format(thresholds=contract["thresholds"])
    main = f"""\
inputs = read(sys.argv[1])
{LOAD[file_format]}print(dict(zip(class_names, probabilities, strict=True)))
{sets}"""
    return f'''"""Class probabilities of {sample}: python example_{file_format}.py FILE"""

import json
import sys

import numpy
{IMPORTS[file_format]}{imports}

{read}

if __name__ == "__main__":
{indent(main, "    ")}'''
