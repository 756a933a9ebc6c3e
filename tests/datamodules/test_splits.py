"""Stratified and grouped splits, subsets of classes, balanced sampling."""

import numpy as np
import pytest

from conf.errors import UserError
from datamodules.splits import Samples, balanced_order, keep_classes, take_split

NAMES = ["ant", "bee", "cat"]


def samples(labels: list[int], groups: list[str] | None = None) -> Samples:
    items = [f"item {i}" for i in range(len(labels))]
    files = [f"file {i}" for i in range(len(labels))]
    return Samples(items, np.array(labels), files, None if groups is None else np.array(groups))


def test_take_keeps_fields_of_a_sample_together() -> None:
    taken = samples([0, 1, 2, 0], ["p", "q", "r", "s"]).take(np.array([2, 1]))
    assert (taken.items, taken.files) == (["item 2", "item 1"], ["file 2", "file 1"])
    assert taken.labels.tolist() == [2, 1] and taken.groups is not None and taken.groups.tolist() == ["r", "q"]


def test_classes_are_kept_in_the_given_order() -> None:
    splits, names = keep_classes({"train": samples([0, 1, 2, 1]), "test": samples([2, 2])}, NAMES, ["cat", "bee"])
    assert names == ["cat", "bee"]
    assert splits["train"].labels.tolist() == [1, 0, 1] and splits["train"].files == ["file 1", "file 2", "file 3"]
    assert splits["test"].labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kept", "problem"),
    [(["ant", "be"], "no class 'be'; did you mean 'bee'"), (["ant", "ant"], "'ant' is listed twice")],
)
def test_unknown_and_repeated_classes_are_rejected(kept: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=rf"^datamodule\.classes: .*{problem}"):
        keep_classes({"train": samples([0, 1, 2])}, NAMES, kept)


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_in_one_split(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 300, 1000)
    labels = (groups % 3 + (generator.random(1000) < 0.3)) % 3
    kept, taken = take_split(labels, groups, 0.2, seed, NAMES)
    assert sorted([*kept, *taken]) == list(range(1000))
    assert not set(groups[kept]) & set(groups[taken])
    counts = np.bincount(labels[taken], minlength=3) / np.bincount(labels)
    assert np.abs(counts - 0.2).max() < 0.05


def test_class_in_one_group_stays_in_training() -> None:
    labels, groups = np.array([0] * 50 + [1] * 50), np.array([*range(50), *[99] * 50])
    for seed in range(10):
        kept, _ = take_split(labels, groups, 0.3, seed, NAMES[:2])
        assert {0, 1} == set(labels[kept])


def test_groups_that_cannot_be_split_are_rejected() -> None:
    for groups in (["p"] * 4, ["p", "p", "p", "q"]):
        with pytest.raises(UserError, match=r"^group: "):
            take_split(np.array([0, 0, 0, 0]), np.array(groups), 0.01, 0, NAMES)


@pytest.mark.parametrize("counts", [[90, 9, 1], [5, 5, 5], [1, 0, 100], [7, 3, 4]])
def test_balanced_order_draws_classes_equally_often(counts: list[int]) -> None:
    labels = np.repeat(np.arange(3), counts)
    drawn = balanced_order(labels, np.random.default_rng(0))
    drawn_counts = np.bincount(labels[drawn], minlength=3)[np.array(counts) > 0]
    assert len(drawn) == len(labels) and drawn_counts.max() - drawn_counts.min() <= 1
    for label, count in enumerate(counts):
        times = np.bincount(drawn, minlength=len(labels))[labels == label]
        if count:
            assert times.max() - times.min() <= 1
