"""Labels of samples: class indices, or rows of a 0/1 matrix where a sample may have several labels."""

from collections.abc import Sequence

import numpy as np


def occurrences(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each occurrence of a label: the position of its sample and the class, both int64 `[M]`.

    Args:
        labels: int64 `[N]`, or 0/1 `[N, num_classes]`.
    """
    if labels.ndim == 2:
        positions, classes = np.nonzero(labels)
        return positions, classes
    return np.arange(len(labels)), labels


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Samples of each class, int64 `[num_classes]`; see `occurrences`."""
    return np.bincount(occurrences(labels)[1], minlength=num_classes)


def label_sets(labels: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Labels as if each set of labels were a class, int64 `[N]`, and the names of these classes, such as `cat | dog`.

    Single labels are returned as they are.
    """
    if labels.ndim == 1:
        return labels, list(class_names)
    rows, positions = np.unique(labels, axis=0, return_inverse=True)
    names = [" | ".join(class_names[label] for label in np.flatnonzero(row).tolist()) or "no label" for row in rows]
    return positions.reshape(-1), names


def stratify(
    labels: np.ndarray, groups: np.ndarray | None, fractions: Sequence[float], generator: np.random.Generator
) -> np.ndarray:
    """Distributes samples with several labels over subsets, each label as nearly by their fractions as possible.

    The rarest label that is left is distributed first, each of its samples to the subset that lacks most of it.

    Source: Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011, algorithm 1.

    Args:
        labels: 0/1 `[N, num_classes]`.
        groups: `[N]`; samples of one group stay together.
        fractions: of each subset; their sum is 1.

    Returns:
        The subset of each sample, int64 `[N]`.
    """
    if groups is not None:
        members = np.unique(groups, return_inverse=True)[1]
        counts = np.zeros((members.max() + 1, labels.shape[1] + 1), np.int64)
        np.add.at(counts, members, np.column_stack([labels, np.ones_like(members)]))  # the last one is its size
        return stratify(counts, None, fractions, generator)[members]
    wanted = np.outer(fractions, labels.sum(0))  # [subsets, num_classes]: samples that a subset still lacks
    wanted_size = np.array(fractions) * len(labels)
    subset = np.full(len(labels), -1)
    left = generator.permutation(len(labels))
    while len(left):
        counts = labels[left].sum(0)
        present = np.flatnonzero(counts)
        rarest = present[counts[present].argmin()] if len(present) else None
        members = left if rarest is None else left[labels[left, rarest] > 0]
        for sample in members.tolist():
            ties = generator.random(len(wanted_size))
            lack = wanted_size if rarest is None else wanted[:, rarest]
            chosen = np.lexsort((ties, wanted_size, lack))[-1]
            subset[sample] = chosen
            wanted[chosen] -= labels[sample]
            wanted_size[chosen] -= 1
        left = left[subset[left] < 0]
    return subset
