"""A web page that classifies images in the browser, by onnxruntime-web. Its files are in `web/`."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL
from omegaconf import DictConfig
from torch import Tensor

from conf.errors import UserError
from conf.files import make_output
from lit_modules.inference.export_formats.onnx_model import write_onnx

WEB = Path(__file__).parent / "web"
PAGE = ("index.html", "style.css", "page.js", "classify.js", "resize.js")
# Of the npm package onnxruntime-web: without WebGPU and threads, which few browsers and static servers allow.
PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def check_page(cfg: DictConfig) -> None:
    """Checks that a run can have a page, before it is loaded, and fetches onnxruntime-web.

    Raises:
        UserError: the run was trained on arrays, or npm does not fetch it.
    """
    if "resize" not in cfg.datamodule:
        raise UserError("format: web is for images, and the run was trained on arrays; choose format=onnx")
    _runtime_archive()


def write_web(predictor: Any, inputs: Tensor, contract: str) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor]]:
    """The files of the page with model.onnx, verified as format=onnx."""
    files, run = write_onnx(predictor, inputs, contract)
    return files | page_files(contract), run


def page_files(contract: str) -> dict[str, bytes]:
    """The files of the page by name, except model.onnx.

    Args:
        contract: of the export, as JSON.
    """
    page = {name: (WEB / name).read_bytes() for name in PAGE}
    with tarfile.open(_runtime_archive()) as archive:
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            content = archive.extractfile(member) if name in RUNTIME else None
            if content:
                page[name] = content.read()
    return page | {"contract.json": page_contract(json.loads(contract)).encode()}


def page_contract(contract: dict[str, Any]) -> str:
    """The contract as the page reads it, as JSON: with the version of Pillow, whose resizing it repeats."""
    return json.dumps(contract | {"pillow": PIL.__version__})


def _runtime_archive() -> Path:
    """The npm package in the cache, fetched at the first call."""
    cache = Path(os.environ.get("LITMUS_CACHE", "~/.cache/litmus")).expanduser()
    archive = cache / f"{PACKAGE.replace('@', '-')}.tgz"
    if archive.is_file():
        return archive
    by_hand = f"put the file that `npm pack {PACKAGE}` writes on another machine into {cache}"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"format: web needs npm, which is not installed; install it, or {by_hand}")
    make_output(cache, "LITMUS_CACHE")
    with TemporaryDirectory(dir=cache) as folder:
        fetching = [npm, "pack", "--ignore-scripts", "--loglevel=error", PACKAGE]
        result = subprocess.run(fetching, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            problem = (result.stderr.splitlines() or ["no message"])[-1]
            raise UserError(f"format: npm does not fetch {PACKAGE} ({problem}); check the network, or {by_hand}")
        os.replace(Path(folder) / archive.name, archive)
    return archive
