"""Several labels a sample: how they are read, split and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conf.errors import UserError
from datamodules.arrays import ArraysDataModule
from datamodules.augment.mixing import soft_targets
from datamodules.image_folder import ImageFolderDataModule
from datamodules.labels import count_labels, label_sets, stratify
from datamodules.splits import take_fold, take_split
from tests.conftest import PLAIN

NAMES = ["bike", "cat", "dog"]
LABELS = {f"{i}.png": labels for i, labels in enumerate([(1,), (1, 2), (0, 1, 2), (), (0,), (2,), (0, 2), (1,)] * 3)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i, name in enumerate(LABELS):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / name)
    return tmp_path


def read(root: Path, **choices: Any) -> ImageFolderDataModule:
    datamodule = ImageFolderDataModule(**PLAIN | {"root": str(root), "multi_label": True} | choices)
    datamodule.setup("inspect")
    return datamodule


def cells(separator: str) -> str:
    rows = [f'{file},"{separator.join(NAMES[label] for label in labels)}"' for file, labels in LABELS.items()]
    return "\n".join(["file,label", *rows])


def one_hot() -> str:
    rows = [",".join([file, *(str(int(label in labels)) for label in range(3))]) for file, labels in LABELS.items()]
    return "\n".join([",".join(["file", *NAMES]), *rows])


def several_rows() -> str:
    pairs = [(file, NAMES[label]) for label in range(3) for file, labels in LABELS.items() if label in labels]
    empty = [(file, "") for file, labels in LABELS.items() if not labels]
    return "\n".join(["file,label", *(f"{file},{name}" for file, name in pairs + empty)])


def json_lists() -> str:
    return "\n".join(
        json.dumps({"file": file, "labels": [NAMES[label] for label in labels]}) for file, labels in LABELS.items()
    )


TABLES = {
    "|": ("table.csv", cells("|"), {}),
    ";": ("table.csv", cells("; "), {"label_separator": "semicolon"}),
    ",": ("table.csv", cells(", "), {"label_separator": "comma"}),
    "blank": ("table.csv", cells(" "), {"label_separator": "blank"}),
    "one-hot": ("table.csv", one_hot(), {}),
    "rows": ("table.csv", several_rows(), {}),
    "lists": ("table.jsonl", json_lists(), {}),
}


@pytest.mark.parametrize("case", TABLES)
def test_each_form_of_a_table_gives_the_same_labels(images: Path, case: str) -> None:
    name, content, choices = TABLES[case]
    (images / name).write_text(content)

    datamodule = read(images / name, **choices)

    assert datamodule.class_names == NAMES and datamodule.is_multi_label
    read_labels = {
        file: tuple(np.flatnonzero(row))
        for split in datamodule.inspected.splits.values()
        for file, row in zip(split.files, split.labels.numpy(), strict=True)
    }
    assert read_labels == LABELS


@pytest.mark.parametrize(
    ("content", "choices", "message"),
    [
        (cells("|"), {"multi_label": False}, "write datamodule.multi_label=true datamodule.label_separator=pipe"),
        (one_hot(), {"multi_label": False}, "write datamodule.multi_label=true"),
        (several_rows(), {"multi_label": False}, "write datamodule.multi_label=true"),
        (cells(";"), {}, "write datamodule.label_separator=semicolon"),
        ("file,label\n0.png,0 2\n1.png,1\n2.png,0", {}, "write datamodule.label_separator=blank"),
        (cells("|"), {"sampler": "balanced"}, "use lit_module.class_weights=auto"),
        (cells("|"), {"relabel": "labels.csv"}, "datamodule.relabel: gives one label a sample"),
    ],
)
def test_a_refusal_says_what_to_write(images: Path, content: str, choices: dict[str, Any], message: str) -> None:
    table = images / "table.csv"
    table.write_text("\n".join(line for line in content.splitlines() if not line.endswith(',""')))
    with pytest.raises(UserError) as error:
        read(table, **choices)
    assert message in str(error.value)


def test_a_class_folder_is_one_label_whatever_its_name(images: Path) -> None:
    for name in ("golden retriever", "cat"):
        (images / "folders" / name).mkdir(parents=True)
        for i in range(4):
            (images / f"{i + 4 * (name == 'cat')}.png").rename(images / "folders" / name / f"{i}.png")
    datamodule = read(images / "folders", label_separator="blank")
    assert datamodule.class_names == ["cat", "golden retriever"]


def test_one_image_written_in_two_ways_has_the_labels_of_both(images: Path) -> None:
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(12)]
    (images / "table.csv").write_text("\n".join(["file,label", *rows, "./0.png,cat"]))
    datamodule = read(images / "table.csv")
    assert sum(len(split.files) for split in datamodule.inspected.splits.values()) == 12


def test_chosen_classes_are_columns_of_all_samples(images: Path) -> None:
    (images / "table.csv").write_text(cells("|"))
    datamodule = read(images / "table.csv", classes=["dog", "bike"])
    for split in datamodule.inspected.splits.values():
        expected = [[int(2 in LABELS[file]), int(0 in LABELS[file])] for file in split.files]
        assert split.labels.tolist() == expected
    assert sum(len(split.files) for split in datamodule.inspected.splits.values()) == len(LABELS)


def test_labels_of_other_data_become_those_of_the_network(images: Path) -> None:
    (images / "table.csv").write_text(cells("|"))
    datamodule = read(images / "table.csv")
    files, before = datamodule.files("test"), datamodule.split("test").labels.tolist()
    with pytest.raises(UserError, match="samples of several labels, but the run predicts one label"):
        datamodule.use_labels_of(NAMES, (1, 4, 4), multi_label=False)
    datamodule.use_labels_of(["dog", "owl", "bike", "cat"], (1, 4, 4), multi_label=True)
    assert datamodule.files("test") == files
    assert datamodule.split("test").labels.tolist() == [[dog, 0, bike, cat] for bike, cat, dog in before]


def test_mixed_images_have_both_sets_of_labels() -> None:
    labels, partners = torch.tensor([[1, 0, 1], [0, 0, 0]]), torch.tensor([[1, 1, 0], [0, 1, 1]])
    mixed = soft_targets(labels, partners, torch.tensor([0.75, 0.5]), 3)
    torch.testing.assert_close(mixed, torch.tensor([[1.0, 0.25, 0.75], [0.0, 0.5, 0.5]]))


def test_an_image_in_two_splits_is_refused(images: Path) -> None:
    (images / "table.csv").write_text("file,label,split\n0.png,cat,train\n1.png,dog,train\n0.png,dog,test\n")
    with pytest.raises(UserError, match=r"0\.png: is in two splits or groups"):
        read(images / "table.csv")


def test_arrays_have_a_matrix_of_labels(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(2, size=(60, 4))
    inputs = np.arange(60 * 8, dtype=np.float32).reshape(60, 1, 8)
    np.savez(tmp_path / "a.npz", inputs=inputs, labels=labels, class_names=np.array(["a", "b", "c", "d"]))
    choices = {name: PLAIN[name] for name in PLAIN if name in ArraysDataModule.__dataclass_fields__}

    datamodule = ArraysDataModule(**choices | {"root": str(tmp_path / "a.npz")})
    datamodule.setup()

    assert datamodule.class_names == ["a", "b", "c", "d"]
    assert sum(len(datamodule.files(split)) for split in ("train", "val", "test")) == 60
    for split in ("train", "val", "test"):
        rows = [int(name[7:-1]) for name in datamodule.files(split)]
        np.testing.assert_array_equal(datamodule.split(split).labels, labels[rows])
    np.savez(tmp_path / "a.npz", inputs=inputs, labels=labels * 2)
    with pytest.raises(UserError, match="are not all 0 or 1"):
        ArraysDataModule(**choices | {"root": str(tmp_path / "a.npz")}).setup()


def test_each_split_has_its_share_of_every_label() -> None:
    generator = np.random.default_rng(1)
    frequencies = np.array([0.5, 0.2, 0.05, 0.01])
    labels = (generator.random((2000, 4)) < frequencies).astype(np.int64)
    kept, taken = take_split(labels, None, 0.2, 0, list("abcd"))

    assert len(kept) + len(taken) == 2000 and not set(kept) & set(taken)
    np.testing.assert_allclose(labels[taken].sum(0), 0.2 * labels.sum(0), atol=1)
    assert abs(len(taken) - 400) <= 2
    folds = [take_fold(labels, None, 5, fold, 0, list("abcd"))[1] for fold in range(5)]
    assert sorted(np.concatenate(folds)) == list(range(2000))
    for fold in folds:
        np.testing.assert_allclose(labels[fold].sum(0), labels.sum(0) / 5, atol=2)


def by_the_paper(labels: np.ndarray, fractions: list[float], seed: int) -> list[int]:
    """Algorithm 1 of Sechidis et al. with sets and dicts instead of arrays."""
    generator = np.random.default_rng(seed)
    wanted = [fraction * len(labels) for fraction in fractions]
    wanted_of = [{label: fraction * int(labels[:, label].sum()) for label in range(labels.shape[1])}
                 for fraction in fractions]  # fmt: skip
    left = [int(i) for i in generator.permutation(len(labels))]
    subset: dict[int, int] = {}
    while left:
        counts = {label: sum(int(labels[i, label]) for i in left) for label in range(labels.shape[1])}
        present = {label: count for label, count in counts.items() if count}
        label = min(present, key=lambda label: (present[label], label)) if present else None
        for i in [i for i in left if label is None or labels[i, label]]:
            ties = generator.random(len(fractions))
            keys = [
                (wanted[j] if label is None else wanted_of[j][label], wanted[j], ties[j]) for j in range(len(wanted))
            ]
            subset[i] = max(range(len(wanted)), key=lambda j: keys[j])
            for other in np.flatnonzero(labels[i]).tolist():
                wanted_of[subset[i]][other] -= 1
            wanted[subset[i]] -= 1
        left = [i for i in left if i not in subset]
    return [subset[i] for i in range(len(labels))]


@pytest.mark.parametrize("fractions", [[0.8, 0.2], [0.2] * 5])
def test_stratification_is_that_of_the_paper(fractions: list[float]) -> None:
    labels = (np.random.default_rng(3).random((300, 6)) < 0.2).astype(np.int64)
    assert stratify(labels, None, fractions, np.random.default_rng(7)).tolist() == by_the_paper(labels, fractions, 7)


def test_a_fold_without_samples_or_a_label_of_one_group_is_refused() -> None:
    labels = (np.random.default_rng(0).random((30, 3)) < 0.5).astype(np.int64)
    with pytest.raises(UserError, match="too few groups to take a split from"):
        for fold in range(5):
            take_fold(labels, np.arange(30) % 3, 5, fold, 0, list("abc"))
    labels[:, 2] = np.arange(30) == 7
    with pytest.raises(UserError, match="class c: all its samples would leave the training split"):
        for fold in range(5):
            take_fold(labels, None, 5, fold, 0, list("abc"))


def test_groups_of_samples_with_several_labels_stay_together() -> None:
    generator = np.random.default_rng(2)
    labels = (generator.random((400, 3)) < 0.3).astype(np.int64)
    groups = generator.integers(80, size=400)
    splits = [take_split(labels, groups, 0.2, 0, list("abc"))]
    splits += [take_fold(labels, groups, 5, fold, 0, list("abc")) for fold in range(5)]
    for kept, taken in splits:
        assert not set(groups[kept]) & set(groups[taken])
        np.testing.assert_allclose(labels[taken].sum(0), 0.2 * labels.sum(0), atol=5)
        assert abs(len(taken) - 80) <= 12
    assert sorted(np.concatenate([taken for _, taken in splits[1:]])) == list(range(400))


def test_labels_are_counted_and_named() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]])
    assert count_labels(labels, 3).tolist() == [2, 1, 2]
    positions, names = label_sets(labels, NAMES)
    assert [names[position] for position in positions] == ["bike | dog", "no label", "bike | dog", "cat"]
