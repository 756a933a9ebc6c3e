"""Caching changes no bit, unreadable samples are reported, mixing and sampling depend on (seed, epoch) alone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from conf.errors import UserError
from datamodules import image_datamodule
from datamodules.augment.mixing import Mixup
from datamodules.image_datamodule import ImageDataModule
from datamodules.loader import BatchLoader
from datamodules.storage import cache, worker_pool
from datamodules.storage.cache import CachedImages
from datamodules.storage.inputs import InMemory, OnDevice, Split, Streamed, resident
from tests.conftest import TINY, configure, inputs_of, write_images
from tests.samples import datamodule, loader_of, noise, trainer


def folder(root: Path, *overrides: str) -> ImageDataModule:
    cfg = configure("datamodule=image_folder", f"datamodule.root={root}", *overrides)
    module: ImageDataModule = instantiate(cfg.datamodule, _convert_="all")
    module.setup()
    module.trainer = trainer()
    return module


def number_of_samples(module: ImageDataModule) -> int:
    return sum(len(module.files(split)) for split in ("train", "val", "test"))


def epoch_of(module: ImageDataModule) -> list[torch.Tensor]:
    return [part for batch in loader_of(module, "train") for part in batch[:3]]


@pytest.mark.parametrize("cache", ["auto", "disk", "off"])
def test_cache_location_changes_no_bit(images: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    if cache != "auto":  # which reads as disk does
        monkeypatch.setattr(worker_pool, "MIN_FILES_FOR_PROCESSES", 1)
    monkeypatch.setattr(image_datamodule, "MIN_CACHE_SIZE", 0)
    expected = folder(images, "datamodule.cache=memory")
    first = folder(images, f"datamodule.cache={cache}")
    again = folder(images, f"datamodule.cache={cache}")
    kinds = {"auto": CachedImages, "disk": CachedImages, "off": Streamed}
    for module in (first, again):
        assert isinstance(module.split("train").inputs, kinds[cache])
        assert module.mean_std == expected.mean_std and module.input_shape == expected.input_shape
        assert all(map(torch.equal, epoch_of(module), epoch_of(expected)))
        assert torch.equal(inputs_of(module, "test"), inputs_of(expected, "test"))


def test_images_in_memory_are_streamed_too() -> None:
    streamed = instantiate(configure("datamodule=digits", "datamodule.cache=off").datamodule, _convert_="all")
    expected = instantiate(configure("datamodule=digits").datamodule, _convert_="all")
    streamed.setup()
    expected.setup()
    assert isinstance(streamed.split("train").inputs, Streamed)
    assert torch.equal(inputs_of(streamed, "test"), inputs_of(expected, "test"))


def test_averaging_weights_copies_no_data(run: Callable[..., Path], images: Path, tmp_path: Path) -> None:
    data = (f"datamodule.root={images}", "datamodule.cache=disk", f"datamodule.cache_dir={tmp_path / 'cache'}")
    average = ("callbacks=[default,ema]", "callbacks.ema.decay=0.5", "lit_module.net.pool=2")
    folder = run("+experiment=from_scratch", *TINY, *data, *average)
    assert (folder / "model.pt").exists()


def test_images_are_streamed_where_nothing_has_room(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_datamodule, "MIN_CACHE_SIZE", 0)
    monkeypatch.setattr(cache, "has_room", lambda folder, size: False)
    assert isinstance(folder(images).split("train").inputs, InMemory)
    monkeypatch.setattr(image_datamodule, "free_memory", lambda: 40_000)
    assert isinstance(folder(images).split("train").inputs, Streamed)


def rewrite(file: Path) -> None:
    """Like `cp -p`, which keeps the time of modification."""
    old = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))


def replace_folder(file: Path) -> None:
    """By one whose files are older, and have the same sizes."""
    file.parent.rename(file.parent.with_name("old"))
    (file.parent.parent.with_name("copy") / file.parent.name).rename(file.parent)


def touch(file: Path) -> None:
    os.utime(file, (2**33, 2**33))


@pytest.mark.parametrize("change", [touch, rewrite, replace_folder])
def test_image_changed_during_a_run_is_named(images: Path, change: Callable[[Path], None]) -> None:
    shutil.copytree(images, images.with_name("copy"))
    module = folder(images, "datamodule.cache=off")
    file = module.files("train")[next(iter(loader_of(module, "train"))).index[0]]
    change(images / file)
    with pytest.raises(UserError, match=rf"^{file}: the file changed during the run; "):
        epoch_of(module)


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_damaged_image_is_skipped_if_asked(images: Path, capsys: pytest.CaptureFixture[str], cache: str) -> None:
    whole = folder(images)
    (images / "dark" / "004.png").write_bytes((images / "dark" / "004.png").read_bytes()[:150])
    readable = folder(images, f"datamodule.cache={cache}", "datamodule.on_error=skip")
    assert "skipped dark/004.png (" in capsys.readouterr().err
    assert number_of_samples(readable) == number_of_samples(whole) - 1
    if cache == "off":
        with pytest.raises(UserError, match=r"^dark/004.png: .*; repair the file"):
            module = folder(images, "datamodule.cache=off")
            [inputs_of(module, split) for split in ("train", "val", "test")]
    else:
        with pytest.raises(UserError, match=r"^dark/004.png \(.*: 1 sample cannot be read; .*on_error=skip$"):
            folder(images, f"datamodule.cache={cache}")


@pytest.mark.parametrize("stage", ["fit", "inspect"])
def test_class_with_too_few_readable_images_names_a_file(images: Path, stage: str) -> None:
    for file in (images / "dark").iterdir():
        file.write_bytes(b"")
    cfg = configure("datamodule=image_folder", f"datamodule.root={images}", "datamodule.on_error=skip")
    line = r"^class dark \(0\): too few samples .*; 40 could not be read, first dark/000.png \(the file is empty\)$"
    with pytest.raises(UserError, match=line):
        instantiate(cfg.datamodule, _convert_="all").setup(stage)


def test_damaged_image_of_a_test_split_is_never_skipped(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            write_images(tmp_path / split / name, 4, level=90)
    (tmp_path / "test" / "bee" / "001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"^test/bee/001.png \(the file is empty\): 1 sample .* a score may not leave"):
        folder(tmp_path, "datamodule.on_error=skip")


def test_images_in_two_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = iter(range(20, 200))
    for split in ("train", "val", "test"):
        for name in ("ant", "bee"):
            write_images(tmp_path / split / name, 4, level=next(levels))
    folder(tmp_path)
    assert capsys.readouterr().err == ""
    copy = (tmp_path / "train" / "ant" / "002.png").read_bytes()
    (tmp_path / "test" / "bee" / "planted.png").write_bytes(copy)
    folder(tmp_path)
    counts = "1 of 8 samples of train are in test too, and 1 of 9 of test in train"
    line = f"warning: {counts}, bit for bit: train/ant/002.png = test/bee/planted.png\n"
    assert capsys.readouterr().err == line


def test_disk_cache_needs_image_files() -> None:
    with pytest.raises(UserError, match=r"^datamodule.cache: these images are not files"):
        datamodule(cache="disk").setup()


def test_mean_and_std_are_of_evenly_spaced_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.datamodule.MAX_MEASURED", 12)
    module = datamodule()
    module.setup()
    taken = inputs_of(module, "train").numpy()[np.arange(12) * len(module.files("train")) // 12] / 255
    assert module.mean_std == (pytest.approx([taken.mean()]), pytest.approx([taken.std()]))


def test_subset_of_classes_is_labelled_in_its_order() -> None:
    module = datamodule(classes=["cat", "ant"])
    module.setup()
    assert module.class_names == ["cat", "ant"] and sum(module.class_counts) == len(module.files("train"))
    whole = datamodule({"train": noise(48, 6, 5)})
    whole.setup()
    assert {int(file.split("/")[1]) % 3 for file in module.files("train")} == {0, 2}


def test_balanced_batches_draw_classes_equally_often(images: Path) -> None:
    for extra in range(30, 60):
        (images / "dark" / f"{extra}.png").write_bytes((images / "dark" / "000.png").read_bytes())
    module = folder(images, "datamodule.sampler=balanced")
    labels = torch.cat([batch.labels for batch in loader_of(module, "train")])
    counts = labels.bincount()
    assert len(labels) == len(module.files("train")) and counts.max() - counts.min() <= 1
    module.trainer = trainer(current_epoch=1)
    assert not torch.equal(labels, torch.cat([batch.labels for batch in loader_of(module, "train")]))


def test_partners_are_of_the_same_batch_on_any_number_of_ranks() -> None:
    inputs = InMemory(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    split = Split(inputs, np.arange(10), torch.arange(10), [""] * 10)

    def pairs(rank: int, ranks: int) -> list[list[tuple[int, int]]]:
        loader = BatchLoader(split, 4, rank=rank, world_size=ranks, seed=1, partners=True)
        halves = [batch.inputs.flatten().view(2, -1).tolist() for batch in loader]
        return [list(zip(*half, strict=True)) for half in halves]

    whole = pairs(0, 1)
    for batch in whole:
        own, partners = zip(*batch, strict=True)
        assert sorted(own) == sorted(partners) and all(sample != partner for sample, partner in batch)
    joined = [first + second for first, second in zip(pairs(0, 2), pairs(1, 2), strict=True)]
    assert [sorted(batch) for batch in joined] == [sorted(batch) for batch in whole]


def test_mixed_samples_agree_with_their_targets() -> None:
    module = datamodule(
        {"train": np.stack([np.full((6, 5), 100 * (i % 3), np.uint8) for i in range(48)])}, mix=Mixup(1.0)
    )
    module.setup()
    module.trainer = trainer(current_epoch=2)
    batch = next(iter(loader_of(module, "train")))
    assert len(batch.inputs) == 2 * module.batch_size == 2 * batch.size
    mixed = module.on_after_batch_transfer(batch, 0)
    assert mixed.inputs.shape == (8, 1, 6, 5) and mixed.targets is not None and mixed.size == 8
    assert torch.equal(mixed.labels, batch.labels[:8]) and torch.equal(mixed.index, batch.index[:8])
    level = mixed.targets @ torch.tensor([0.0, 100.0, 200.0]) / 255  # the level of a mixture reveals lam
    assert torch.allclose(mixed.inputs, level.view(-1, 1, 1, 1).expand_as(mixed.inputs), atol=1e-6)
    module.trainer = trainer(training=False)
    assert next(iter(loader_of(module, "val"))).targets is None


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_run_with_mixing_resumes_with_the_same_bits(
    run: Callable[..., Path], images: Path, tmp_path: Path, mix: str
) -> None:
    data = ("+experiment=from_scratch", f"datamodule.root={images}", f"datamodule/mix={mix}")
    choices = (*data, *TINY[:2], *TINY[3:], "lit_module.net.pool=2", "lit_module/scheduler=constant")
    whole = run(*choices, "trainer.max_epochs=2", f"run_dir={tmp_path / 'whole'}")
    cut = run(*choices, "trainer.max_epochs=1", f"run_dir={tmp_path / 'cut'}")
    run(f"run={cut}", "trainer.max_epochs=2")
    expected = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    resumed = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_split_moves_to_a_gpu_with_enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(20, 1, 3, 3)
    split = Split(InMemory(samples), np.array([4, 9, 2]), torch.tensor([0, 1, 0]), ["a", "b", "c"])
    device: Any = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("", (), {"total_memory": 100}))
    assert resident(split, torch.device("cpu"), 0.9) is split
    assert resident(split, device, 0.2) is split
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor)
    moved = resident(split, device, 0.3)
    assert isinstance(moved.inputs, OnDevice) and resident(moved, device, 0.3) is moved
    assert torch.equal(next(moved.read([np.array([2, 0])])), torch.from_numpy(samples[[2, 4]]))
