"""An export gives the probabilities of the network that was trained, or is not written."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.inference import export as export_module
from lit_modules.inference import image_reading
from lit_modules.inference.export import NUM_SAMPLES, REQUIRED_PACKAGES, TOLERANCE, WRITERS, check_keys, export
from lit_modules.inference.export_formats import onnx_model
from lit_modules.inference.image_reading import ANY_SIZE
from tests.conftest import TINY, configure, write_images
from tests.fits import predictor_of
from tests.runs import NAMES, trained

HAVE_TESTS = {"hub", "web"}  # of their own
FORMATS = [name for name in sorted(WRITERS.keys() - HAVE_TESTS) if all(map(find_spec, REQUIRED_PACKAGES[name]))]
SHAPES = [(2, 50), (3, 12, 10), (1, 6, 6, 6)]
TEMPERATURE = 1.7


def samples(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 256, (NUM_SAMPLES, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_hand(module: LitClassifier, images: Tensor) -> Tensor:
    """The probabilities by the classifier itself, not by the Predictor that is exported."""
    with torch.inference_mode():
        return (module(images / torch.tensor(255.0)) / TEMPERATURE).softmax(1)


def facts(shape: tuple[int, ...] = (3, 12, 10)) -> dict[str, Any]:
    spec = {"channels": 3, "size": shape[1:], "resize": "pad", "interpolation": "bilinear", "jpeg_draft": True}
    return {"class_names": NAMES, "temperature": TEMPERATURE} | (spec if len(shape) == 3 else {"resize": None})


@pytest.mark.parametrize(
    "shape", [SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])], ids=str
)
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_thousand_samples_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, shape: tuple[int, ...]
) -> None:
    if file_format not in ("openvino", "executorch"):  # whose own packages need one
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))  # no temporary folder is needed
    module, images = trained(shape), samples(shape)
    expected = by_hand(module, images)
    assert expected.max() > 0.95 and expected.min() < 0.01
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for inputs in (images, images / torch.tensor(255.0)):
        predictor = predictor_of(module, TEMPERATURE)
        differences = export(predictor, inputs, expected, facts(shape), file_format, tmp_path)
        assert differences.samples <= TOLERANCE and differences.files is None
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    compile((tmp_path / f"example_{file_format}.py").read_text(), "example", "exec")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_wrong_preprocessing_is_not_written(tmp_path: Path, file_format: str) -> None:
    module, images = trained(SHAPES[1]), samples(SHAPES[1])
    predictor = predictor_of(module, TEMPERATURE)
    predictor.white.fill_(254.9)
    with pytest.raises(UserError, match=f"^format: probabilities of the {file_format} export differ by .*e-0"):
        export(predictor, images, by_hand(module, images), facts(), file_format, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_an_extra_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r'^format: onnx needs onnxscript; pip install -e "\.\[onnx\]"$'):
        check_keys(configure("task=export", "format=onnx"))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["format=safetensors", "precision=int8"], "^precision: int8 is for format=onnx"),
        (["format=onnx", "input=image", "precision=int8"], "^precision: int8 is for format=onnx"),
        (["format=onnx", "input=image", "datamodule=series"], "^input: the run was trained on arrays"),
        (["format=executorch", "input=image"], "^input: executorch takes images of one size"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], problem: str
) -> None:
    monkeypatch.setattr(export_module, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=problem):
        check_keys(configure("task=export", *overrides))


@pytest.fixture(scope="module")
def photographs(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on JPEGs large enough for the draft."""
    images = tmp_path_factory.mktemp("export") / "images"
    for name, level in (("dark", 60), ("light", 190)):
        write_images(images / name, 12, level=level, size=(70, 55), suffix="jpg")
    size = ("datamodule.image_size=16", "datamodule.resize=crop", "lit_module.net.pool=2")
    return shared_run("+experiment=from_scratch", f"datamodule.root={images}", *TINY, *size)


@pytest.mark.parametrize("kind", ["uint8", "image"])
def test_files_are_read_as_predict_reads_them(
    run: Callable[..., Path], photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    output = tmp_path / "export"
    run(f"run={photographs}", "task=export", "format=torch_export", f"input={kind}", f"output={output}")
    printed = capfd.readouterr().out
    assert re.search(r"read as the example reads them: (0\.0e\+00|\S+e-0[6-9]), on [2-9] files", printed), printed
    extra = {"contract.json": ""}
    torch.export.load(output / "model.pt2", extra_files=extra)
    contract = json.loads(extra["contract.json"])
    assert contract["jpeg_draft"] and "EXIF" in " ".join(contract["preprocessing"])
    assert contract["inputs"]["shape"] == (ANY_SIZE if kind == "image" else ["batch", 3, 16, 16])


def test_an_example_that_reads_otherwise_is_not_written(
    run: Callable[..., Path], photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(image_reading.FIT, "crop", image_reading.FIT["stretch"])
    output = f"output={tmp_path / 'export'}"
    with pytest.raises(UserError, match=r"\.jpg: read as the example reads it, probabilities differ by .*e-0"):
        run(f"run={photographs}", "task=export", "format=torch_export", output)
    assert not (tmp_path / "export").exists()


def test_weights_beyond_the_limit_of_an_onnx_file_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "MAX_ONNX_BYTES", 100)
    module, images = trained(SHAPES[1]), samples(SHAPES[1])
    with pytest.raises(UserError, match=r"^format: an onnx file holds at most 2 GB, .*; choose torch_export$"):
        export(predictor_of(module, 1), images, by_hand(module, images), facts(), "onnx", tmp_path)


KINDS = [(file_format, "uint8") for file_format in FORMATS] + [("onnx", "float")]


@pytest.mark.parametrize(
    "kinds", [KINDS[1:2], pytest.param(KINDS, marks=pytest.mark.slow)], ids=["one format", "all formats"]
)
def test_moved_run_without_data_exports_standalone_files(
    run: Callable[..., Path],
    images: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    kinds: list[tuple[str, str]],
) -> None:
    root = f"datamodule.root={images}"
    folder = run("+experiment=from_scratch", root, *TINY, "lit_module.class_weights=auto", "lit_module.net.pool=2")
    image = shutil.copy(next((images / "light").iterdir()), tmp_path / "image.jpg")
    run(f"run={folder}", "task=export", "format=safetensors")
    assert "validation samples" in capfd.readouterr().out
    moved = shutil.move(folder, tmp_path / "moved")
    shutil.rmtree(images)

    answers = []
    for file_format, kind in kinds:
        run(f"run={moved}", "task=export", f"format={file_format}", f"input={kind}")
        output = capfd.readouterr()
        assert "noise" in output.out and "datamodule.root: " in output.err
        example = [sys.executable, "-I", "-W", "error::UserWarning", f"example_{file_format}.py", str(image)]
        answer = subprocess.run(example, cwd=moved / "export", capture_output=True, text=True, check=True, timeout=120)
        answers.append(json.loads(answer.stdout.replace("'", '"')))
    weights = torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert weights["normalize.mean"].shape == (3, 1, 1)
    pixels = torch.tensor(np.asarray(Image.open(image))).permute(2, 0, 1)[None]
    module = instantiate(
        configure(f"run={moved}").lit_module,
        input_shape=(3, 12, 12),
        class_names=["dark", "light"],
        class_counts=[1, 1],
        mean=[0.0] * 3,
        std=[1.0] * 3,
        _convert_="all",
    )
    module.load_state_dict(weights)
    with torch.inference_mode():
        expected = module.eval()(pixels / torch.tensor(255.0)).softmax(1)[0].tolist()
    for answer in answers:
        assert answer == pytest.approx(dict(zip(["dark", "light"], expected, strict=True)), abs=TOLERANCE)
