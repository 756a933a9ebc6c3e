"""Predictions are those of the best weights, each sample once, in order, on any number of batches and ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import train
from datamodules.loader import BatchLoader
from datamodules.storage.inputs import InMemory, Split
from lit_modules.evaluation.predictions import MAX_MISTAKES, Collector, Predictions, evenly_spaced
from tests.conftest import DRAWN, UNDRAWN, configure, inputs_of
from tests.runs import rows_of

CLASSES = 3
SIZES = (1, 2, 5, 40, 41)


class Batch(NamedTuple):
    inputs: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]


def split_of(samples: int) -> Split:
    """Logits instead of images, so that a prediction needs no network."""
    generator = torch.Generator().manual_seed(samples)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    return Split(
        InMemory(torch.randn(samples, CLASSES, generator=generator).numpy()), np.arange(samples), labels, [""] * samples
    )


def collect(samples: int, rank: int = 0, world_size: int = 1, batch_size: int = 4) -> Predictions | None:
    collector = Collector()
    for batch in BatchLoader(split_of(samples), batch_size, rank=rank, world_size=world_size):
        collector.add(Batch(batch.inputs, batch.labels, batch.index), batch.inputs)
    return collector.gather()


def collect_all_sizes(rank: int, world_size: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    for samples in SIZES:
        found = collect(samples, rank, world_size)
        assert (found is None) == (rank > 0)
        if found is not None:
            np.savez(folder / f"{samples}.npz", **found._asdict())
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.slow
def test_several_ranks_give_the_predictions_of_one(tmp_path: Path, world_size: int) -> None:
    mp.spawn(collect_all_sizes, (world_size, tmp_path), nprocs=world_size)
    for samples in SIZES:
        alone = collect(samples)
        assert alone is not None
        together = np.load(tmp_path / f"{samples}.npz")
        for name, value in alone._asdict().items():
            np.testing.assert_array_equal(together[name], value, err_msg=f"{name} of {samples}")


@pytest.mark.parametrize("samples", SIZES)
def test_every_sample_stands_once_with_its_probabilities(samples: int) -> None:
    split, found = split_of(samples), collect(samples)
    (logits,) = split.read([np.arange(samples)])
    assert found is not None
    assert found.index.tolist() == list(range(samples))
    np.testing.assert_array_equal(found.true, split.labels)
    np.testing.assert_array_equal(found.predicted, logits.argmax(1))
    np.testing.assert_array_equal(found.probabilities, logits.softmax(1))


@pytest.mark.parametrize("samples", [5, 41, 200])
def test_mistakes_are_the_most_probable_of_the_wrong(samples: int) -> None:
    split, found = split_of(samples), collect(samples)
    (logits,) = split.read([np.arange(samples)])
    assert found is not None
    probability, predicted = logits.softmax(1).max(1)
    wrong = [i for i in range(samples) if predicted[i] != split.labels[i]]
    expected = sorted(wrong, key=lambda i: -probability[i])[:MAX_MISTAKES]
    assert found.mistakes.tolist() == expected


def test_equal_probabilities_keep_the_prediction_of_logits() -> None:
    collector = Collector()
    logits = torch.tensor([[1e-9, 2e-9, -50.0]])  # float32 gives both a probability of one half
    collector.add(Batch(torch.zeros(1, 1), torch.tensor([1]), torch.tensor([0])), logits)
    found = collector.gather()
    assert found is not None and found.predicted.tolist() == [1]


@pytest.mark.parametrize("callbacks", [pytest.param("[default]", marks=pytest.mark.slow), "[default,ema]"])
def test_files_hold_what_the_best_weights_say(run: Callable[..., Path], callbacks: str) -> None:
    # At this rate the first epoch is the best.
    choices = ("trainer.max_epochs=4", "lit_module/scheduler=constant", "lit_module.optimizer.lr=1.0")
    average = ["callbacks.ema.decay=0.5"] if "ema" in callbacks else []
    folder = run(*DRAWN[:2], *choices, f"callbacks={callbacks}", *average, UNDRAWN[1])
    datamodule, module, _ = train.build(configure(f"run={folder}"))
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=False)
    module.eval()
    rows = rows_of(folder)
    for split in ("val", "test"):
        inputs, labels, files = inputs_of(datamodule, split), datamodule.split(split).labels, datamodule.files(split)
        with torch.no_grad():
            probabilities = module(inputs / 255).softmax(1).numpy()
        found = [row for row in rows if row["split"] == split]
        assert [row["file"] for row in found] == list(files)
        assert [int(row["true"]) for row in found] == labels.tolist()
        given = np.array([[float(row[f"p/{name}"]) for name in range(10)] for row in found])
        np.testing.assert_allclose(given, probabilities, atol=1e-5)
        assert [int(row["predicted"]) for row in found] == probabilities.argmax(1).tolist()
    assert json.loads((folder / "summary.json").read_text())["best_epoch"] == 0


@pytest.mark.slow
def test_two_ranks_write_the_predictions_of_one(process: Callable[..., object], tmp_path: Path) -> None:
    choices = [*DRAWN, "lit_module.net.norm=none", "datamodule.batch_size=100"]
    process(*choices, f"run_dir={tmp_path / 'one'}")
    process(*choices, f"run_dir={tmp_path / 'two'}", "devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(one) == 287 + 359
    for name in ("split", "file", "true"):
        assert [row[name] for row in one] == [row[name] for row in two]
    ours, theirs = (np.array([[float(row[f"p/{i}"]) for i in range(10)] for row in rows]) for rows in (one, two))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    for score in ("val/ece", "val/auc", "test/ece", "test/auc", "test/ap"):
        assert one[score] == pytest.approx(two[score], abs=1e-3), score


@pytest.mark.parametrize(("samples", "batch_size"), [(5000, 128), (100, 64), (33, 64), (10, 4), (1, 4)])
def test_spread_rows_come_from_all_over_the_split(samples: int, batch_size: int) -> None:
    batches = torch.arange(samples).split(batch_size)
    size = len(batches[0])
    rows = torch.cat([batch[evenly_spaced(32, i, size, len(batches))] for i, batch in enumerate(batches)])
    assert len(rows) >= min(samples, 32) / 2 and len(rows.unique()) == len(rows)
    assert len(rows.diff().unique()) <= 1 and rows[0] == 0
