"""Inputs unlike the validation samples are called unknown, and others as rarely as stated."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from conf.errors import UserError
from lit_modules.inference.unknown import (
    FILE,
    NEIGHBOUR,
    KnownInputs,
    familiarity,
    familiarity_threshold,
    save_features,
    unit_vectors,
)
from litmus import load_run
from tests.conftest import write_images
from tests.runs import trained


def features(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + torch.tensor([3.0] + [0.0] * 7)


def test_familiarity_is_the_distance_of_the_fifth_neighbour() -> None:
    reference, new = features(60, 0), features(20, 1)
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOUR, metric="cosine").fit(reference.numpy())
    expected = 1 - neighbours.kneighbors(new.numpy())[0][:, -1]
    np.testing.assert_allclose(familiarity(new, unit_vectors(reference)), expected, atol=1e-5)
    among_others = 1 - neighbours.kneighbors()[0][:, -1]  # without the samples themselves
    lowest = np.sort(among_others)[int(61 * 0.1) - 1]
    assert familiarity_threshold(unit_vectors(reference), 0.1) == pytest.approx(lowest, abs=1e-4)


def test_false_alarms_are_as_rare_as_stated() -> None:
    rates = []
    for seed in range(200):
        reference = unit_vectors(features(99, 2 * seed))
        alarms = familiarity(features(100, 2 * seed + 1), reference) < familiarity_threshold(reference, 0.1)
        rates.append(alarms.double().mean().item())
    assert 0.06 < np.mean(rates) < 0.1 + 3 * np.std(rates) / np.sqrt(len(rates))


def test_a_rate_that_few_samples_cannot_state_is_refused() -> None:
    with pytest.raises(UserError, match=r"^unknown: 0.05 needs 19 validation samples, and the run has 18; "):
        familiarity_threshold(unit_vectors(features(18, 0)), 0.05)


def test_forward_passes_of_a_network_are_judged() -> None:
    module = trained((1, 8, 8))
    known = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    received: list[torch.Tensor] = []
    with torch.inference_mode():
        handle = module.net.head.register_forward_pre_hook(lambda _, arguments: received.append(arguments[0]))
        module(known)
        module(known[:7] * torch.linspace(0, 1, 8))
        handle.remove()
        reference = unit_vectors(received[0])
        with KnownInputs(module.net, reference, 0.3) as judge:
            module(known[:7] * torch.linspace(0, 1, 8))
            expected = familiarity(received[1], reference) >= familiarity_threshold(reference, 0.3)
            assert judge.of_last_batch() == expected.tolist()
        module(known[:3])
    assert len(judge.of_last_batch()) == 7, "it no longer listens"


def test_features_of_a_shard_without_samples_are_not_saved(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert save_features(tmp_path, 0, torch.zeros(0, 4), torch.zeros(0, 4)) == {} and not (tmp_path / FILE).exists()


def test_a_run_knows_its_images_and_no_others(run: Callable[..., Path], images: Path, tmp_path: Path) -> None:
    choices = ("devices=cpu", "lit_module.net.channels=[4,8]", "lit_module.net.pool=2", "++callbacks.dashboard=null")
    folder = run("+experiment=from_scratch", *choices, "trainer.max_epochs=2", f"datamodule.root={images}",
                 "datamodule.val_fraction=0.3")  # fmt: skip
    stripes = np.zeros((12, 12, 3), np.uint8)
    stripes[::2] = 0, 255, 0
    write_images(tmp_path / "new", 2, level=60)
    Image.fromarray(stripes).save(tmp_path / "new" / "stripes.png")
    predict = (f"run={folder}", "task=predict", f"input={tmp_path / 'new'}", f"output={tmp_path / 'out'}")
    run(*predict, "unknown=0.1")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        assert [row["known"] for row in csv.DictReader(file)] == ["true", "true", "false"]
    assert not load_run(folder, device="cpu").is_known(tmp_path / "new" / "stripes.png", unknown=0.1)
    (folder / FILE).unlink()
    with pytest.raises(UserError, match=rf"^unknown: \S+{FILE} holds no features of the best epoch; finish the "):
        run(*predict, "unknown=0.1")
