"""Datasets of torchvision, read by its own code from small files that the tests write."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import MNIST

from conf.errors import UserError
from datamodules.torchvision_dataset import TorchvisionDataModule
from tests.conftest import PLAIN
from tests.samples import labels, pixels


def module_of(dataset: str, root: Path, **changes: Any) -> TorchvisionDataModule:
    source = {"dataset": dataset, "root": str(root), "download": False}
    return TorchvisionDataModule(**PLAIN | source | changes)


def error_of(dataset: str, root: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        module_of(dataset, root, **changes).setup()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths, the bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, train: int, test: int) -> dict[str, np.ndarray]:
    """Random 28×28 images whose labels cycle through the classes; returns the images by split."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = {}
    for name, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        images[name] = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images[name])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return images


def write_folders(root: Path, *splits: str, suffix: str = "png", classes: tuple[str, ...] = ("AD", "AE")) -> None:
    """Three 5×4 images for each class and split; their red level encodes split and class."""
    for level, split in enumerate(splits):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                image = Image.new("RGB", (5, 4), (100 * level + 50 * label, 0, 0))
                image.save(root / split / name / f"{i}.{suffix}")


def test_mnist_has_the_pixels_and_labels_of_its_files(tmp_path: Path) -> None:
    written = write_mnist(tmp_path, 80, 20)
    module = module_of("MNIST", tmp_path)
    module.setup()
    assert module.input_shape == (1, 28, 28)
    assert np.array_equal(pixels(module, "test")[:, 0], written["test"])
    assert labels(module, "test") == [i % 10 for i in range(20)]
    positions = [int(file.removeprefix("MNIST/train/")) for file in module.files("val")]
    assert np.array_equal(pixels(module, "val")[:, 0], written["train"][positions])
    assert labels(module, "val") == [i % 10 for i in positions]


def test_mnist_keeps_its_official_test_split(tmp_path: Path) -> None:
    write_mnist(tmp_path, 80, 20)
    module = module_of("MNIST", tmp_path)
    module.setup()
    assert all(file.startswith("MNIST/test/") for file in module.files("test"))
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [60, 20, 20]
    assert module.class_counts == [6] * 10


def test_mnist_names_its_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path, 80, 20)
    assert module_of("MNIST", tmp_path).read()[1] == MNIST.classes


def test_official_train_valid_and_test_splits_are_kept(tmp_path: Path) -> None:
    write_folders(tmp_path / "country211", "train", "valid", "test")
    module = module_of("Country211", tmp_path)
    module.setup()
    assert module.class_names == ["AD", "AE"] and module.input_shape == (3, 4, 5)
    for level, split in enumerate(("train", "val", "test")):
        assert [len(module.files(split)), *sorted(labels(module, split))] == [6, 0, 0, 0, 1, 1, 1]
        assert sorted(pixels(module, split)[:, 0, 0, 0]) == [100 * level] * 3 + [100 * level + 50] * 3


def test_labels_are_read_from_another_attribute(tmp_path: Path) -> None:
    write_folders(tmp_path / "dtd" / "dtd", "images", suffix="jpg", classes=("banded", "dotted"))
    lists = tmp_path / "dtd" / "dtd" / "labels"
    lists.mkdir()
    for i, split in enumerate(("train", "val", "test")):
        (lists / f"{split}1.txt").write_text(f"banded/{i}.jpg\ndotted/{i}.jpg\n")
    module = module_of("DTD", tmp_path)
    module.setup()
    assert module.class_names == ["banded", "dotted"]
    assert [labels(module, split) for split in ("val", "test")] == [[0, 1], [0, 1]]
    assert module.class_counts == [1, 1]


def test_labels_are_read_from_samples_without_an_attribute(tmp_path: Path) -> None:
    base = tmp_path / "gtsrb" / "GTSRB"
    write_folders(base, "Training", suffix="ppm", classes=("00000", "00001", "00002"))
    write_folders(base, "Final_Test", suffix="ppm", classes=("Images",))
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\n1.ppm;2\n0.ppm;1\n")
    module = module_of("GTSRB", tmp_path)
    module.setup()
    assert module.class_names == ["0", "1", "2"], "torchvision has no names for them"
    assert labels(module, "test") == [2, 1]
    assert module.class_counts == [2, 2, 2] and sorted(labels(module, "val")) == [0, 1, 2]


def test_missing_test_split_is_taken_from_training(tmp_path: Path) -> None:
    wnids = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079")
    wnids += ("n03394916", "n03417042", "n03425413", "n03445777", "n03888257")
    write_folders(tmp_path / "imagenette2", "train", "val", suffix="JPEG", classes=wnids)
    module = module_of("Imagenette", tmp_path)
    module.setup()
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [20, 30, 10]
    assert all(file.startswith("Imagenette/train/") for file in module.files("test"))


def test_class_with_several_names_has_the_first(tmp_path: Path) -> None:
    wnids = ("n01440764", "n02102040")
    write_folders(tmp_path / "imagenette2", "train", "val", suffix="JPEG", classes=wnids)
    assert module_of("Imagenette", tmp_path).read()[1][0] == "tench"


def test_classes_of_equal_name_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "classes", [("crane", "bird"), "dog", ("crane", "machine"), *"3456789"])
    write_mnist(tmp_path, 80, 20)
    assert module_of("MNIST", tmp_path).read()[1] == ["crane 0", "dog", "crane 2", *"3456789"]


@pytest.mark.parametrize("dataset", ["MNIST", "CIFAR10", "Country211"])
def test_error_for_missing_data_suggests_download(tmp_path: Path, dataset: str) -> None:
    line = error_of(dataset, tmp_path)
    assert line.startswith(f"datamodule.root: no {dataset} in {tmp_path} (")
    assert line.endswith("add datamodule.download=true to fetch it")


@pytest.mark.parametrize(("typed", "meant"), [("CIFAR", "CIFAR10"), ("FashionMnist", "FashionMNIST")])
def test_unknown_name_suggests_the_nearest(tmp_path: Path, typed: str, meant: str) -> None:
    expected = f"datamodule.dataset: torchvision has no {typed}; did you mean '{meant}'?"
    assert error_of(typed, tmp_path) == expected


@pytest.mark.parametrize(("typed", "meant"), [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_name_in_lower_case_suggests_the_right_one(tmp_path: Path, typed: str, meant: str) -> None:
    expected = f"datamodule.dataset: torchvision has no {typed}; did you mean '{meant}'?"
    assert error_of(typed, tmp_path) == expected


@pytest.mark.parametrize("dataset", ["FakeData", "ImageFolder", "EMNIST"])
def test_dataset_without_a_training_split_is_rejected(tmp_path: Path, dataset: str) -> None:
    (tmp_path / "ant").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "ant" / "a.png")
    assert error_of(dataset, tmp_path).startswith(f"datamodule.dataset: {dataset} ")


@pytest.mark.parametrize("dataset", ["UCF101", "HMDB51", "PhotoTour", "Kinetics", "CocoDetection"])
def test_dataset_without_labelled_images_is_rejected(tmp_path: Path, dataset: str) -> None:
    expected = f"datamodule.dataset: {dataset} is not a dataset of labelled images; "
    assert error_of(dataset, tmp_path).startswith(expected)


def write_kitti(root: Path) -> None:
    for split in ("training", "testing"):
        (root / "Kitti" / "raw" / split / "image_2").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / "Kitti" / "raw" / split / "image_2" / "0.png")
    (root / "Kitti" / "raw" / "training" / "label_2").mkdir()
    (root / "Kitti" / "raw" / "training" / "label_2" / "0.txt").write_text("Car 0 0 0 0 0 1 1 1 1 1 0 0 0 0\n")


def write_celeba(root: Path) -> None:
    """Six images, two per split, with two attributes each."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (4, 4)).save(folder / "img_align_celeba" / f"{i}.jpg")
    for name, header in (("attr", "2\nBald Young\n"), ("bbox", "2\nx y\n"), ("landmarks_align", "2\nx y\n")):
        (folder / f"list_{name}_celeba.txt").write_text(header + "".join(f"{i}.jpg 1 -1\n" for i in range(6)))
    for name in ("identity_CelebA", "list_eval_partition"):
        (folder / f"{name}.txt").write_text("".join(f"{i}.jpg {i // 2}\n" for i in range(6)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision's own open files
@pytest.mark.parametrize(("dataset", "write"), [("Kitti", write_kitti), ("CelebA", write_celeba)])
def test_dataset_of_boxes_or_multiple_labels_is_rejected(
    tmp_path: Path, dataset: str, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CelebA._check_integrity", lambda _: True)
    expected = f"datamodule.dataset: {dataset} does not have one class per image; choose another"
    assert error_of(dataset, tmp_path) == expected


def test_prepare_data_without_download_writes_nothing(tmp_path: Path) -> None:
    module_of("MNIST", tmp_path).prepare_data()
    assert not list(tmp_path.iterdir())


def test_prepare_data_downloads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr(MNIST, "download", lambda self: fetched.append(self.train) or write_once(tmp_path))
    module = module_of("MNIST", tmp_path, download=True)
    module.prepare_data()
    assert fetched == [True, False]
    module.setup()
    assert fetched == [True, False], "downloaded files are read without the network"


def test_ranks_download_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = [0], [0]

    def slow(self: MNIST) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        write_once(tmp_path)
        inside[0] -= 1

    monkeypatch.setattr(MNIST, "download", slow)
    ranks = [Thread(target=module_of("MNIST", tmp_path, download=True).prepare_data) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert most == [1]


def write_once(root: Path) -> None:
    if not (root / "MNIST").exists():
        write_mnist(root, 80, 20)


def test_failed_download_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: MNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(UserError, match=r"^datamodule.root: no MNIST in .*; check the network and the folder$"):
        module_of("MNIST", tmp_path, download=True).prepare_data()
