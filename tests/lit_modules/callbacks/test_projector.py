"""The projector shows test samples of all classes by the features that the last layer gets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import train
from tests.conftest import TINY, configure, inputs_of


def test_points_are_the_features_of_the_last_layer(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "callbacks=[default,projector]", "callbacks.projector.samples=40")
    points = np.loadtxt(folder / "00001" / "test" / "tensors.tsv")
    labels = (folder / "00001" / "test" / "metadata.tsv").read_text().split()
    assert len(points) == len(labels) == 40 and len(set(labels)) == 10
    assert (folder / "00001" / "test" / "sprite.png").is_file()
    datamodule, module, _ = train.build(configure(f"run={folder}"))
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=False)
    inputs, expected = inputs_of(datamodule, "test"), datamodule.split("test").labels
    with torch.no_grad():
        features = module.net.features(module.net.blocks(module.eval().normalize(inputs / 255))).numpy()
    rows = [int(np.abs(features - point).sum(1).argmin()) for point in points]
    np.testing.assert_allclose(points, features[rows], atol=1e-4)
    assert [str(int(expected[row])) for row in rows] == labels
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_repeated_test_logs_its_points_once(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "callbacks=[default,projector]")
    run(f"run={folder}")
    assert (folder / "projector_config.pbtxt").read_text().count("embeddings {") == 1
