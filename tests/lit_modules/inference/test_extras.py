"""Embeddings and maps are those of the network, in the order of predictions.csv."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.evaluation.activation_maps import ActivationMaps, scaled
from lit_modules.evaluation.image_grid import overlay
from lit_modules.inference import extras
from lit_modules.inference.extras import Embeddings, Maps
from lit_modules.inference.predict import predict
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.head import body_features
from lit_modules.networks.normalize import Normalize
from tests.conftest import TINY, write_images
from tests.fits import predictor_of
from tests.runs import NAMES, rows_of, trained

SHAPE = (3, 12, 10)


def batches(sizes: tuple[int, ...]) -> list[tuple[list[str], np.ndarray, list[tuple[str, str]]]]:
    pixels = np.random.default_rng(0).integers(0, 256, (sum(sizes), *SHAPE), dtype=np.uint8)
    names = [f"{i}.png" for i in range(len(pixels))]
    starts = np.cumsum([0, *sizes])
    return [(names[a : a + n], pixels[a : a + n], []) for a, n in zip(starts, sizes, strict=False)]


def write(predictor: Predictor, output: Path, flip: bool = False, sizes: tuple[int, ...] = (3, 0, 4)) -> Tensor:
    """Predicts with all extra outputs; returns the normalized samples."""
    sample = predictor.normalize(torch.zeros(1, *SHAPE))
    parts = batches(sizes)
    outputs = [Maps(predictor, sample), Embeddings(predictor.net, sample)]
    with torch.inference_mode():
        predict(predictor, parts, sum(sizes), NAMES, flip, output, extras=outputs)
    pixels = torch.from_numpy(np.concatenate([part[1] for part in parts]))
    return predictor.normalize(pixels.float() / predictor.white)


@pytest.mark.parametrize("flip", [False, True])
def test_embeddings_are_the_inputs_of_the_head(tmp_path: Path, flip: bool) -> None:
    predictor = predictor_of(trained(SHAPE), 1.0)
    inputs = write(predictor, tmp_path, flip)
    embeddings = np.load(tmp_path / "embeddings.npy")
    first, second = (body_features(predictor.net, part) for part in inputs.split([3, 4]))
    assert embeddings.dtype == np.float32 and embeddings.shape == (7, first.shape[1])
    assert np.array_equal(embeddings, torch.cat([first, second]))
    if not flip:
        probabilities = predictor.net.head(torch.from_numpy(embeddings)).softmax(1)
        expected = [[float(row[f"p/{name}"]) for name in NAMES] for row in rows_of(tmp_path)]
        np.testing.assert_allclose(probabilities.detach(), expected, atol=1e-6)
    assert not (tmp_path / "embeddings.npy.part").exists()


def test_maps_show_the_image_and_its_predicted_class(tmp_path: Path) -> None:
    predictor = predictor_of(trained(SHAPE), 1.0)
    inputs = write(predictor, tmp_path)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [f"{i:06d}.png" for i in range(1, 8)]
    labels = torch.tensor([[NAMES.index(row["predicted"])] for row in rows_of(tmp_path)])
    maps = scaled(ActivationMaps(predictor.net, inputs[:1])(inputs, labels), inputs.shape[2:])
    pixels = np.concatenate([part[1] for part in batches((3, 0, 4))])
    for i in (0, 6):
        with Image.open(tmp_path / "maps" / f"{i + 1:06d}.png") as image:
            drawn = np.asarray(image)
        assert min(drawn.shape[:2]) >= 224
        factor = drawn.shape[0] // 12
        small = drawn[::factor, ::factor]
        assert np.array_equal(small[:, :10], pixels[i].transpose(1, 2, 0))
        np.testing.assert_allclose(
            small[:, 10:] / 255, overlay(pixels[i] / 255, maps[i, 0].numpy()), atol=0.5 / 255 + 1e-6
        )


def test_maps_of_an_earlier_prediction_do_not_stay(tmp_path: Path) -> None:
    predictor = predictor_of(trained(SHAPE), 1.0)
    write(predictor, tmp_path)
    write(predictor, tmp_path, sizes=(2,))
    assert len(list((tmp_path / "maps").iterdir())) == 2 == len(np.load(tmp_path / "embeddings.npy"))


class Odd(nn.Module):
    """Logits that are NaN for samples with a large first feature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.conv(inputs).mean((2, 3))
        return self.head(torch.where(features[:, :1] > features[:, :1].median(), torch.nan, features))


def test_skipped_images_have_neither_embeddings_nor_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = Predictor(Normalize([0.5] * 3, [0.2] * 3, 2), Odd(), 1.0)
    write(predictor, tmp_path, sizes=(3, 4))
    count = len(rows_of(tmp_path))
    assert 0 < count < 7 and "no finite probabilities" in capsys.readouterr().err
    embeddings = np.load(tmp_path / "embeddings.npy")
    assert len(embeddings) == count == len(list((tmp_path / "maps").iterdir())) and np.isfinite(embeddings).all()


def test_long_work_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "MIN_ANNOUNCED_SECONDS", 0.0)
    write(predictor_of(trained(SHAPE), 1.0), tmp_path)
    assert capsys.readouterr().out.count("maps of 7 images: about 0 min\n") == 1


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 10, 3))


def two_heads() -> nn.Module:
    net: Any = linear()
    net.head_name = None
    return net


def test_networks_without_maps_or_embeddings_are_refused() -> None:
    predictor, sample = Predictor(Normalize([0.5] * 3, [0.2] * 3, 2), linear(), 1.0), torch.zeros(1, *SHAPE)
    with pytest.raises(UserError, match=r"^explain: there are no maps, because no layer has .*; leave it out"):
        Maps(predictor, sample)
    with pytest.raises(UserError, match=r"^embeddings: this network has several heads; leave it out"):
        Embeddings(two_heads(), sample)


def test_command_writes_both(shared_run: Callable[..., Path], run: Callable[..., Path], tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "dark", 20, level=60)
    write_images(tmp_path / "images" / "light", 20, level=190)
    choices = (f"datamodule.root={tmp_path / 'images'}", *TINY, "lit_module.net.pool=2")
    folder = shared_run("+experiment=from_scratch", *choices)
    (tmp_path / "new").mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(tmp_path / "images" / "light" / name, tmp_path / "new" / name)
    output, extra = tmp_path / "out", ("explain=true", "embeddings=true", "trainer.precision=bf16-mixed")
    run(f"run={folder}", "task=predict", f"input={tmp_path / 'new'}", f"output={output}", *extra)
    assert len(np.load(output / "embeddings.npy")) == 2 == len(list((output / "maps").iterdir()))
