"""Stratified and grouped splits, subsets of classes, balanced sampling."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from conf.errors import UserError
from datamodules.splits import Samples, balanced_order, join, keep_classes, nested_subset, take_fold, take_split

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


@pytest.mark.parametrize("is_grouped", [False, True])
def test_folds_are_those_of_scikit_learn(is_grouped: bool) -> None:
    labels = np.random.default_rng(0).integers(3, size=200)
    groups = np.arange(200) // 5 if is_grouped else None
    splitter = (StratifiedGroupKFold if is_grouped else StratifiedKFold)(4, shuffle=True, random_state=7)
    expected = list(splitter.split(labels, labels, groups))
    for fold, (train, test) in enumerate(expected):
        kept, taken = take_fold(labels, groups, 4, fold, 7, NAMES)
        assert np.array_equal(kept, train) and np.array_equal(taken, test)
        assert groups is None or not set(groups[kept]) & set(groups[taken])
    assert sorted(np.concatenate([test for _, test in expected])) == list(range(200))


@pytest.mark.parametrize(
    ("counts", "groups", "fold", "problem"),
    [
        ([5, 5], None, 5, r"datamodule\.fold: there is no fold 5 of 5; choose from 0 to 4"),
        ([5, 4], None, 0, r"datamodule\.folds: class bee has too few samples \(4\) for 5 folds; "),
        ([9, 9], [0] * 9 + [1] * 9, 0, r"datamodule\.folds: 2 groups are too few for 5 folds; "),
        ([60, 9], [*range(60), *[60] * 9], None, "class bee: all its groups are in one fold; "),
    ],
)
def test_impossible_folds_are_rejected(
    counts: list[int], groups: list[int] | None, fold: int | None, problem: str
) -> None:
    labels = np.repeat(np.arange(2), counts)
    with pytest.raises(UserError, match=f"^{problem}"):
        for each in range(5) if fold is None else [fold]:
            take_fold(labels, None if groups is None else np.array(groups), 5, each, 0, NAMES[:2])


def test_subsets_are_stratified_and_nested() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [500, 50, 3]))
    fractions = [0.01, 0.1, 0.3, 1.0]
    subsets = [nested_subset(labels, fraction, 0) for fraction in fractions]
    counts = [np.bincount(labels[subset]).tolist() for subset in subsets]
    assert counts == [[5, 1, 1], [50, 5, 1], [150, 15, 1], [500, 50, 3]]
    for smaller, larger in pairwise(subsets):
        assert set(smaller) < set(larger) and np.all(np.diff(smaller) > 0)
    assert not np.array_equal(subsets[1], nested_subset(labels, 0.1, 1))


def test_joined_splits_keep_fields_together() -> None:
    joined = join([samples([0, 1], ["p", "q"]), samples([2], ["r"])])
    assert (joined.items, joined.files) == (["item 0", "item 1", "item 0"], ["file 0", "file 1", "file 0"])
    assert joined.labels.tolist() == [0, 1, 2] and joined.groups is not None
    assert joined.groups.tolist() == ["p", "q", "r"]
