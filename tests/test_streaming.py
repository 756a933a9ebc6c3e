"""A run on shards in a store is the run on the same shards on disk."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_modules.classifier import LitClassifier
from tests.conftest import ROOT, TINY, Command, error_line
from tests.runs import RANDOM, assert_same_runs, load, wait_for
from tests.stores import URL, Store, running_store, shard, write_shards

STREAMED = (*TINY, *RANDOM, "datamodule=streaming", "datamodule.image_size=12", "datamodule.batch_size=8")
TWO_RANKS = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.fixture(scope="module")
def running() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(running: Store) -> Store:
    running.clear()
    return running


def test_run_on_a_store_has_the_bits_of_one_on_disk(run: Callable[..., Path], store: Store, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", count=2)
    local = run(*STREAMED, f"datamodule.root={folder}", f"run_dir={tmp_path / 'local'}")
    remote = run(*STREAMED, f"datamodule.root={store.upload(folder)}", f"run_dir={tmp_path / 'remote'}")
    assert (remote / "model.pt").read_bytes() == (local / "model.pt").read_bytes()
    assert_same_runs(remote, local)


def test_run_whose_object_is_removed_stops_and_is_resumed(
    command: Command, run: Callable[..., Path], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store.upload(write_shards(tmp_path / "shards", count=2))
    choices = (*STREAMED, f"datamodule.root={root}", "trainer.max_epochs=2")
    choices += ("callbacks.mid_epoch_checkpoint.every_n_steps=5",)
    whole, stopped = run(*choices, f"run_dir={tmp_path / 'whole'}"), tmp_path / "stopped"
    step, steps = LitClassifier.training_step, itertools.count()

    def training_step(*arguments: Any) -> Any:
        if next(steps) == 6:  # in the second epoch
            store.remove("shards/shard-1.tar")
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LitClassifier, "training_step", training_step)
        refused = command(*choices, f"run_dir={stopped}")
    line = error_line(refused.returncode, refused.stderr)
    assert line == f"{URL}/shard-1.tar: is not in the store; check its name, or restore it and resume by run=…"
    store.put("shards/shard-1.tar", shard(24, 24))
    assert_same_runs(run(f"run={stopped}", f"datamodule.root={root}"), whole)


@pytest.mark.slow
def test_two_ranks_killed_midway_resume_with_the_same_bits(process: Command, store: Store, tmp_path: Path) -> None:
    root = store.upload(write_shards(tmp_path / "shards", count=6, samples=40))
    choices = (*STREAMED, *TWO_RANKS, f"datamodule.root={root}", "trainer.max_epochs=6")
    choices += ("callbacks.mid_epoch_checkpoint.every_n_steps=3",)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = process(*choices, f"run_dir={whole}")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(ROOT / "train.py"), *choices, f"run_dir={killed}"]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as running:
        wait_for(running, "epoch 3/")
        os.killpg(running.pid, signal.SIGKILL)
    assert load(killed, "last.ckpt")["epoch"] < 5
    shutil.rmtree(tmp_path / "shards")
    resumed = process(f"run={killed}", f"datamodule.root={root}")
    assert resumed.returncode == 0, resumed.stderr
    assert "Unclosed" not in resumed.stderr
    assert_same_runs(killed, whole)
