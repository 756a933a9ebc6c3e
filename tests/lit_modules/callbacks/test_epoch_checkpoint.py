"""Each epoch has its checkpoint, and best and last are found whatever happens to the folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from conf.files import read_rows
from lit_modules.callbacks.epoch_checkpoint import EpochCheckpoint
from tests.conftest import TINY, configure

SHORT = (*TINY, "trainer.limit_train_batches=3", "trainer.limit_val_batches=2", "trainer.limit_test_batches=1")
# Nothing changes from epoch to epoch, so that all validation scores are equal.
STILL = (*SHORT, "lit_module.net.norm=none", "lit_module/optimizer=sgd", "lit_module.optimizer.lr=0")
# The first epoch is the best, since the loss is maximized: what is kept of later epochs is seen.
FIRST_IS_BEST = ("monitor=train/loss", "mode=min", "+lit_module.optimizer.maximize=true")


def fit(folder: Path, *overrides: str) -> Path:
    train.fit(configure(*SHORT, "trainer.max_epochs=3", f"run_dir={folder}", *overrides))
    return folder


def resume(folder: Path, *overrides: str) -> None:
    """Resume a run without the check that the best epoch has the lowest loss, see `FIRST_IS_BEST`."""
    train.fit(configure(f"run={folder}", *overrides))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs."""
    return fit(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that keeps the best alone, which is the first."""
    return fit(tmp_path_factory.mktemp("thinned") / "run", *FIRST_IS_BEST, "callbacks.checkpoint.save_top_k=1")


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def load(path: Path) -> dict[str, object]:
    return torch.load(path, weights_only=True)


def assert_best_is(folder: Path, epoch: int) -> None:
    """best.ckpt is a link to that epoch's checkpoint, and model.pt holds its weights."""
    best = folder / "checkpoints" / "best.ckpt"
    assert best.readlink() == Path(f"epoch={epoch:03d}.ckpt")
    checkpoint, weights = load(best), load(folder / "model.pt")
    assert checkpoint["epoch"] == epoch
    expected = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith(("normalize.", "net."))}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_each_epoch_has_its_checkpoint(whole: Path) -> None:
    assert names(whole) == {"epoch=000.ckpt", "epoch=001.ckpt", "epoch=002.ckpt", "last.ckpt", "best.ckpt"}
    for epoch in range(3):
        checkpoint = load(whole / "checkpoints" / f"epoch={epoch:03d}.ckpt")
        assert (checkpoint["epoch"], checkpoint["global_step"]) == (epoch, 3 * (epoch + 1))


def test_last_is_a_link_to_the_latest_epoch(whole: Path) -> None:
    assert (whole / "checkpoints" / "last.ckpt").readlink() == Path("epoch=002.ckpt")


def test_best_is_the_latest_epoch_with_the_highest_score(whole: Path) -> None:
    scores = [np.float32(row["val/f1"]) for row in read_rows(whole / "metrics.csv")]
    assert_best_is(whole, max(range(3), key=lambda epoch: (scores[epoch], epoch)))


def test_weights_file_loads_into_a_new_module(whole: Path) -> None:
    _, module, _ = train.build(configure(*SHORT, f"run_dir={whole}"))
    missing, unexpected = module.load_state_dict(load(whole / "model.pt"), strict=False)
    assert not unexpected and not [name for name in missing if name.startswith(("net.", "normalize."))]


def test_lowest_loss_is_best_in_mode_min(run: Callable[..., Path]) -> None:
    folder = run(*SHORT, "trainer.max_epochs=3", "monitor=val/loss", "mode=min")
    losses = [float(row["val/loss"]) for row in read_rows(folder / "metrics.csv")]
    assert_best_is(folder, int(np.argmin(losses)))


@pytest.mark.parametrize("save_top_k", [-1, 2, 1])
def test_of_equal_epochs_the_latest_is_best(run: Callable[..., Path], save_top_k: int) -> None:
    folder = run(*STILL, "trainer.max_epochs=3", f"callbacks.checkpoint.save_top_k={save_top_k}")
    assert len({row["val/f1"] for row in read_rows(folder / "metrics.csv")}) == 1
    assert_best_is(folder, 2)


def test_save_top_k_keeps_the_best_and_the_last(thinned: Path) -> None:
    losses = [float(row["train/loss"]) for row in read_rows(thinned / "metrics.csv")]
    assert losses[0] == min(losses)
    assert names(thinned) == {"epoch=000.ckpt", "last.ckpt", "best.ckpt"}
    assert not (thinned / "checkpoints" / "last.ckpt").is_symlink()
    assert load(thinned / "checkpoints" / "last.ckpt")["epoch"] == 2
    assert_best_is(thinned, 0)


def test_run_resumes_from_a_last_epoch_that_is_not_best(thinned: Path) -> None:
    resumed = thinned.with_name("resumed")
    shutil.copytree(thinned, resumed, symlinks=True)
    resume(resumed, "trainer.max_epochs=4")
    rows = read_rows(resumed / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[:3] == read_rows(thinned / "metrics.csv")
    assert load(resumed / "checkpoints" / "last.ckpt")["global_step"] == 12
    assert_best_is(resumed, 0)


def test_moved_folder_keeps_its_best(thinned: Path) -> None:
    original, moved = thinned.with_name("original"), thinned.with_name("moved")
    fit(original, *FIRST_IS_BEST)
    original.rename(moved)
    resume(moved, "trainer.max_epochs=4")
    assert_best_is(moved, 0)
    assert names(moved) == {f"epoch={epoch:03d}.ckpt" for epoch in range(4)} | {"last.ckpt", "best.ckpt"}
    assert not original.exists()
    callbacks = load(moved / "checkpoints" / "last.ckpt")["callbacks"]
    (state,) = [state for name, state in callbacks.items() if name.startswith("EpochCheckpoint")]
    assert {Path(path).parent for path in state["best_k_models"]} == {moved / "checkpoints"}


def test_epoch_without_validation_is_never_best(run: Callable[..., Path]) -> None:
    folder = run(*STILL, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    assert [row["val/f1"] != "" for row in read_rows(folder / "metrics.csv")] == [False, True, False]
    assert_best_is(folder, 1)


def test_resume_publishes_the_best_after_a_kill(run: Callable[..., Path]) -> None:
    folder = run(*STILL, "trainer.max_epochs=2")
    assert_best_is(folder, 1)
    # As it is when a run is killed just after the second epoch's checkpoint has been written.
    (folder / "checkpoints" / "best.ckpt").unlink()
    (folder / "checkpoints" / "best.ckpt").symlink_to("epoch=000.ckpt")
    run(f"run={folder}")
    assert_best_is(folder, 1)


@pytest.mark.parametrize("path", ["/home/me/thesis", "..", "/", "a/.."])
def test_checkpoint_that_lists_other_files_as_its_own_is_rejected(tmp_path: Path, path: str) -> None:
    """Lightning would remove them when a better epoch replaces them."""
    places = {"dirpath": str(tmp_path), "weights_file": str(tmp_path / "model.pt")}
    callback = EpochCheckpoint(**places, monitor="val/f1", mode="max", save_top_k=1, every_n_epochs=1)
    paths = {"best_model_path": "a/epoch=000.ckpt", "kth_best_model_path": "", "last_model_path": ""}
    with pytest.raises(ValueError, match="is no checkpoint"):
        callback.load_state_dict({**callback.state_dict(), **paths, "best_k_models": {path: torch.tensor(0.5)}})
