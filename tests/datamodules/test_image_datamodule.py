"""Splits, decoding, loaders and ToTensor of ImageDataModule, with images in memory."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ToTensor, v2

from conf import validation
from conf.errors import UserError
from datamodules.augment.augmentation import augment
from datamodules.augment.transforms import HorizontalFlip
from datamodules.loader import to_float
from datamodules.splits import take_split
from tests.conftest import configure
from tests.samples import CLASSES, datamodule, labels, loader_of, noise, pixels, trainer


def test_to_float_has_the_bits_of_to_tensor_for_all_values() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert torch.equal(to_float(torch.from_numpy(every)[None]), ToTensor()(Image.fromarray(every)))


def test_relabel_matches_classes_by_name() -> None:
    module = datamodule()
    module.setup("test")
    names = module.class_names
    before = [names[label] for label in module.split("test").labels.tolist()]
    module.use_labels_of(["another", *reversed(names)], (1, 6, 5), multi_label=False)
    assert [module.class_names[label] for label in module.split("test").labels.tolist()] == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_to_float_has_the_same_bits_on_cuda() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_float(every.cuda()).cpu(), to_float(every))


def test_batches_are_uint8_until_they_are_on_the_device() -> None:
    module = datamodule()
    module.setup()
    batch = next(iter(loader_of(module, "train")))
    assert batch.inputs.dtype == torch.uint8
    moved = module.on_after_batch_transfer(batch, 0)
    assert torch.equal(moved.inputs, batch.inputs.float() / 255)
    assert torch.equal(moved.labels, batch.labels) and torch.equal(moved.index, batch.index)


def test_only_training_batches_are_augmented() -> None:
    flip = HorizontalFlip(0.5)
    module = datamodule(augment={"flip": flip}, seed=9)
    module.setup()
    batch = next(iter(loader_of(module, "train")))
    module.trainer = trainer(current_epoch=3)
    expected = augment(to_float(batch.inputs), batch.index, 9, 3, [flip])
    assert torch.equal(module.on_after_batch_transfer(batch, 0).inputs, expected)
    assert not torch.equal(expected, to_float(batch.inputs))
    for module.trainer in (trainer(training=False), trainer(overfit_batches=1)):
        assert torch.equal(module.on_after_batch_transfer(batch, 0).inputs, to_float(batch.inputs))


def test_torchvision_transform_is_applied_to_each_image() -> None:
    module = datamodule(augment={"flip": v2.RandomHorizontalFlip(1.0)})
    module.setup()
    batch = next(iter(loader_of(module, "train")))
    assert torch.equal(module.on_after_batch_transfer(batch, 0).inputs, to_float(batch.inputs).flip(3))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.99])
def test_stratified_split_takes_exact_counts_of_each_class(fraction: float) -> None:
    counts = {0: 40, 1: 7, 2: 2, 3: 101}
    classes = np.random.default_rng(0).permutation(np.repeat(list(counts), list(counts.values())))
    kept, taken = take_split(classes, None, fraction, 0, list("abcd"))
    assert sorted([*kept, *taken]) == list(range(len(classes)))
    assert (np.diff(kept) > 0).all() and (np.diff(taken) > 0).all()
    for label, count in counts.items():
        assert (classes[taken] == label).sum() == max(1, min(count - 1, round(count * fraction)))


def test_stratified_split_is_a_function_of_its_seed() -> None:
    classes = np.arange(100) % 4
    _, taken = take_split(classes, None, 0.2, 1, list("abcd"))
    assert np.array_equal(taken, take_split(classes, None, 0.2, 1, list("abcd"))[1])
    assert not np.array_equal(taken, take_split(classes, None, 0.2, 2, list("abcd"))[1])


def test_stratified_split_takes_random_positions_per_class() -> None:
    _, taken = take_split(np.repeat([0, 1], 50), None, 0.2, 0, ["a", "b"])
    assert not np.array_equal(taken[taken < 50], taken[taken >= 50] - 50)


@pytest.mark.parametrize("count", [0, 1])
def test_class_too_small_to_split_is_rejected(count: int) -> None:
    with pytest.raises(UserError, match=rf"^class bee: too few samples \({count}\) left"):
        take_split(np.array([0] * 5 + [1] * count), None, 0.2, 0, ["ant", "bee"])


def test_missing_splits_are_disjoint_parts_of_training() -> None:
    source = noise(48, 6, 5)
    module = datamodule({"train": source}, val_fraction=0.5)
    module.setup()
    parts = {name: pixels(module, name) for name in ("train", "val", "test")}
    # Of the 16 samples of each class a quarter is for test, and half of the other 12 for validation.
    assert [len(part) for part in parts.values()] == [18, 18, 12]
    everything = sorted(image.tobytes() for part in parts.values() for image in part)
    assert everything == sorted(image.tobytes() for image in source)
    assert [labels(module, name).count(1) for name in parts] == [6, 6, 4]


def test_names_and_labels_stay_with_their_images() -> None:
    source = noise(48, 6, 5)
    module = datamodule({"train": source})
    module.setup()
    for name in ("train", "val", "test"):
        for batch in loader_of(module, name):
            for image, label, index in zip(batch.inputs, batch.labels.tolist(), batch.index.tolist(), strict=True):
                position = int(module.files(name)[index].removeprefix("train/"))
                assert np.array_equal(image[0], source[position])
                assert label == position % 3


def test_official_test_split_is_kept_and_never_leaks() -> None:
    train, test = noise(48, 6, 5) // 2, noise(9, 6, 5, seed=1) // 2 + 128
    module = datamodule({"train": train, "test": test})
    module.setup()
    assert np.array_equal(pixels(module, "test")[:, 0], test)
    assert pixels(module, "train").max() < 128 and pixels(module, "val").max() < 128
    assert module.mean_std[0][0] < 0.5
    assert sum(module.class_counts) + len(labels(module, "val")) == 48


def test_official_validation_split_is_kept() -> None:
    val = noise(6, 6, 5, seed=1)
    module = datamodule({"train": noise(48, 6, 5), "val": val})
    module.setup()
    assert np.array_equal(pixels(module, "val")[:, 0], val)
    assert len(labels(module, "test")) == 12 and len(labels(module, "train")) == 36


def test_test_split_depends_on_split_seed_alone() -> None:

    def test_files(seed: int, split_seed: int) -> list[str]:
        module = datamodule(seed=seed, split_seed=split_seed)
        module.setup()
        return list(module.files("test"))

    assert test_files(0, 0) == test_files(1, 0)
    assert test_files(0, 0) != test_files(0, 1)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_mean_and_std_equal_numpy_over_the_training_split(shape: tuple[int, ...]) -> None:
    module = datamodule({"train": noise(48, *shape) // 3, "test": noise(6, *shape)})
    module.setup()
    values = pixels(module, "train").astype(np.float64) / 255
    mean, std = module.mean_std
    assert np.allclose(mean, values.mean((0, 2, 3)), rtol=0, atol=1e-12)
    assert np.allclose(std, values.std((0, 2, 3)), rtol=0, atol=1e-12)


def test_class_counts_are_of_the_training_split() -> None:
    module = datamodule({"train": noise(49, 6, 5), "val": noise(3, 6, 5), "test": noise(3, 6, 5)})
    module.setup()
    assert module.class_names == CLASSES
    assert module.class_counts == [17, 16, 16]


@pytest.mark.parametrize(
    ("shape", "changes", "expected"),
    [
        ((6, 5), {}, (1, 6, 5)),
        ((6, 5, 3), {}, (3, 6, 5)),
        ((6, 5), {"channels": 3}, (3, 6, 5)),
        ((6, 5, 3), {"channels": 1}, (1, 6, 5)),
        ((6, 5), {"image_size": 9}, (1, 9, 9)),
        ((6, 5), {"image_size": [4, 7]}, (1, 4, 7)),
    ],
)
def test_input_shape_is_that_of_every_sample(
    shape: tuple[int, ...], changes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    module = datamodule({"train": noise(48, *shape)}, **changes)
    module.setup()
    assert module.input_shape == expected
    assert all(pixels(module, name).shape[1:] == expected for name in ("train", "val", "test"))


def test_one_colour_image_makes_all_splits_colour() -> None:
    module = datamodule({"train": noise(48, 6, 5), "test": noise(3, 6, 5, 3)})
    module.setup()
    assert module.input_shape == (3, 6, 5)


def test_size_is_inferred_from_the_training_split_alone() -> None:
    module = datamodule({"train": noise(48, 6, 5), "test": noise(3, 20, 30)})
    module.setup()
    assert module.input_shape == (1, 6, 5)
    assert pixels(module, "test").shape == (3, 1, 6, 5)


def test_second_setup_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = datamodule()
    module.setup("fit")
    monkeypatch.setattr(module, "read", lambda: pytest.fail("read twice"))
    module.setup("test")


def test_training_order_follows_the_epoch_of_the_trainer() -> None:
    module = datamodule(seed=4, batch_size=100)
    module.setup()
    for epoch in (0, 2):
        module.trainer = trainer(current_epoch=epoch)
        (batch,) = loader_of(module, "train")
        assert batch.index.tolist() == np.random.default_rng((4, epoch)).permutation(27).tolist()
    module.trainer = trainer(current_epoch=2, overfit_batches=1)
    (batch,) = loader_of(module, "train")
    assert batch.index.tolist() == np.random.default_rng((4, 0)).permutation(27).tolist()


def test_resumed_epoch_continues_where_it_stopped() -> None:
    module = datamodule(seed=4)
    module.setup()
    whole = [batch.index.tolist() for batch in loader_of(module, "train")]
    module.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 2
    assert [batch.index.tolist() for batch in loader_of(module, "train")] == whole[2:]
    assert len(list(loader_of(module, "val"))) == 2, "evaluation always starts at the beginning"


def test_drop_last_affects_training_alone() -> None:
    module = datamodule(drop_last=True)
    module.setup()
    assert [len(batch.labels) for batch in loader_of(module, "train")] == [8, 8, 8]
    assert [len(batch.labels) for batch in loader_of(module, "val")] == [8, 1]
    assert [len(batch.labels) for batch in loader_of(module, "test")] == [8, 4]


def test_each_rank_gets_its_shard_of_a_batch() -> None:
    module = datamodule()
    module.setup()
    shards = []
    for rank in range(3):
        module.trainer = trainer(world_size=3, global_rank=rank)
        shards.append(next(iter(loader_of(module, "train"))).index.tolist())
    whole = np.random.default_rng((0, 0)).permutation(27)[:8].tolist()
    assert shards == [whole[0::3], whole[1::3], whole[2::3]]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"image_size": 0}, "datamodule.image_size: 0 is not a size"),
        ({"image_size": [3]}, r"datamodule.image_size: \[3\] is not a size"),
        ({"image_size": [3, 0]}, r"datamodule.image_size: \[3, 0\] is not a size"),
        ({"image_size": []}, r"datamodule.image_size: \[\] is not a size"),
        ({"names": ["ant"]}, "datamodule: holds only the class ant"),
        ({"names": [*CLASSES, "dog"], "source": {"train": noise(11, 6, 5)}}, r"class dog \(2\): too few samples"),
    ],
)
def test_invalid_values_are_rejected(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        datamodule(**changes).setup()


@pytest.mark.parametrize(
    ("override", "bounds"),
    [
        ("batch_size=0", "at least 1 and at most 1000000"),
        ("val_fraction=0", "above 0 and below 1"),
        ("val_fraction=1.0", "above 0 and below 1"),
        ("test_fraction=-0.1", "above 0 and below 1"),
        ("split_seed=-1", "at least 0 and at most 4294967295"),
        ("num_workers=-1", "at least 0 and at most 1024"),
        ("gpu_cache_fraction=1.0", "at least 0 and below 1"),
    ],
)
def test_values_out_of_range_are_rejected(override: str, bounds: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=f"^datamodule.{key}: must be {bounds}, not "):
        validation.check(configure(f"datamodule.{override}"))


def test_batch_size_that_leaves_no_batch_is_rejected() -> None:
    module = datamodule(batch_size=28, drop_last=True)
    module.setup()
    with pytest.raises(UserError, match=r"^datamodule.batch_size: 28 is more than the 27 samples"):
        loader_of(module, "train")


def test_batch_size_below_the_number_of_ranks_is_rejected() -> None:
    module = datamodule(batch_size=2)
    module.setup()
    module.trainer = trainer(world_size=3)
    with pytest.raises(UserError, match=r"^datamodule.batch_size: 2 is less than the 3 ranks"):
        loader_of(module, "train")
