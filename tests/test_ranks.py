"""Several processes give the scores and weights of one."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torchmetrics.classification import (
    MulticlassHingeLoss,
    MulticlassMatthewsCorrCoef,
    MultilabelRankingAveragePrecision,
)

from datamodules.loader import BatchLoader
from datamodules.storage.inputs import InMemory, Split
from lit_modules.evaluation.curve_metrics import AP, AUC, ECE
from lit_modules.evaluation.metrics import Metrics
from lit_modules.evaluation.scores import MultiLabelScores, Scores
from lit_modules.optim.losses import loss_denominator
from tests.conftest import TINY, Command

SIZES = range(1, 18)
CLASSES = 4
KINDS = (False, True)  # one label a sample, several


def split_of(samples: int) -> Split:
    """Logits instead of images, so that a score needs no network."""
    generator = torch.Generator().manual_seed(samples)
    labels = torch.randint(CLASSES - 1, (samples,), generator=generator)  # the last class is absent
    inputs = InMemory(torch.randn(samples, CLASSES, generator=generator).numpy())
    return Split(inputs, np.arange(samples), labels, [""] * samples)


METRICS: dict[str, Any] = {
    "mcc": MulticlassMatthewsCorrCoef,
    "hinge": MulticlassHingeLoss,  # adds up floats
    "ece": ECE,
    "auc": AUC,
    "ap": AP,
}


MULTI_LABEL_METRICS: dict[str, Any] = {"lrap": MultilabelRankingAveragePrecision, "ece": ECE, "auc": AUC, "ap": AP}


def score(samples: int, rank: int, world_size: int, multi_label: bool = False) -> dict[str, Any]:
    loss_module = torch.nn.BCEWithLogitsLoss() if multi_label else torch.nn.CrossEntropyLoss()
    scores = (MultiLabelScores if multi_label else Scores)(CLASSES, partial(loss_denominator, loss_module))
    metrics = Metrics(MULTI_LABEL_METRICS if multi_label else METRICS, CLASSES, multi_label)
    split = split_of(samples)
    if multi_label:  # a label of each and the next one, so that the last class is absent
        split = split._replace(labels=F.one_hot(split.labels, CLASSES) | F.one_hot((split.labels + 1) % 3, CLASSES))
    for batch in BatchLoader(split, 4, rank=rank, world_size=world_size):
        metrics.add(batch, batch.inputs)  # also if its shard is empty
        if len(batch.labels):
            loss = loss_module(batch.inputs, batch.labels.float() if multi_label else batch.labels)
            scores.update(batch.inputs, batch.labels, loss, torch.tensor(float(len(batch.labels))))
    values = {name: value.tolist() for name, value in scores.compute().items()}
    return values | {"metrics": metrics.compute()}


def score_all_sizes(rank: int, world_size: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    scores = {f"{samples} {kind}": score(samples, rank, world_size, kind) for samples in SIZES for kind in KINDS}
    (folder / f"{rank}.json").write_text(json.dumps(scores))
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_scores_on_several_ranks_equal_those_on_one(tmp_path: Path, world_size: int) -> None:
    mp.spawn(score_all_sizes, (world_size, tmp_path), nprocs=world_size)

    distributed_scores = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world_size)]
    for samples, kind in itertools.product(SIZES, KINDS):
        single = score(samples, 0, 1, kind)
        for rank in range(world_size):
            distributed = distributed_scores[rank][f"{samples} {kind}"]
            for name in ("acc", "f1"):
                assert distributed[name] == single[name], (samples, name)  # to the last bit
            assert distributed["metrics"].keys() == (single["metrics"].keys() if rank == 0 else set())
            for name, value in distributed["metrics"].items():
                # Vector and scalar code may round a sigmoid differently.
                np.testing.assert_allclose(value, single["metrics"][name], rtol=1e-7 if kind else 0)
            for name in ("loss", "likelihood", "likelihood_per_class"):
                np.testing.assert_allclose(distributed[name], single[name], rtol=1e-6, atol=1e-7)


def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


def test_two_ranks_train_as_one_in_one_folder(command: Command, process: Command, tmp_path: Path) -> None:
    # 1151 samples in batches of 100: the last one has 51, so that the ranks' shards differ.
    choices = [*TINY, "trainer.max_epochs=2", "datamodule.batch_size=100", "lit_module.net.norm=none"]
    choices += ["callbacks=[default,ema]", "callbacks.ema.decay=0.5"]  # it copies the module
    one = command(*choices, f"run_dir={tmp_path / 'one'}")
    two = process(
        *choices, f"run_dir={tmp_path / 'two'}", "devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    )
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr

    assert [path.name for path in tmp_path.iterdir() if path.is_dir()].count("two") == 1
    scores = [name for name in summary(tmp_path / "one") if name.startswith(("train/", "val/", "test/"))]
    assert len(scores) == 12
    for name in scores:
        assert summary(tmp_path / "one")[name] == pytest.approx(summary(tmp_path / "two")[name], abs=2e-3), name
    weights = [torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)
