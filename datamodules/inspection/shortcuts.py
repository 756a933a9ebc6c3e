"""Finds single statistics of files by which classes can be told apart without looking at the subject.

A network learns them in its place: R. Geirhos et al., "Shortcut learning in deep neural networks" (2020,
arXiv:2004.07780).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_FOLDS = 5
# Fewer samples tell classes apart by chance; more take seconds.
MIN_SAMPLES = 50
MAX_SAMPLES = 20_000
# A statistic tells the classes apart if it leaves at most half of the errors of naming the largest class each time, and
# a class from the others if its true positive rate exceeds its false positive rate by this.
MAX_ERROR = 0.5
MIN_YOUDEN = 0.8


def find_shortcuts(
    statistics: dict[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Cross-validated accuracy of a small decision tree on each statistic alone.

    Args:
        statistics: by name, `[N]`, numbers or text.
        labels: int64 `[N]`. Classes of fewer than five samples are left out, and samples beyond 20,000.

    Returns:
        For each statistic that varies: `statistic`, `accuracy`, `majority` (the accuracy of naming the largest class
        each time), `tells_apart`, and `classes` that it tells from all others (Youden's index, 1950, at least 0.8).
        Empty for fewer than 50 samples.
    """
    kept = np.flatnonzero(np.bincount(labels)[labels] >= NUM_FOLDS)
    kept = (
        kept[np.unique(np.linspace(0, len(kept) - 1, min(len(kept), MAX_SAMPLES)).astype(int))] if len(kept) else kept
    )
    true = labels[kept]
    counts = np.bincount(true)
    if len(true) < MIN_SAMPLES or np.count_nonzero(counts) < 2:
        return []
    majority = float(counts.max() / len(true))
    shortcuts = []
    for name, values in statistics.items():
        if len(np.unique(values[kept])) == 1:
            continue
        predicted = _cross_validated(values[kept], true)
        accuracy = float((predicted == true).mean())
        youden = {label: _youden(predicted == label, true == label) for label in np.unique(true).tolist()}
        shortcuts.append(
            {
                "statistic": name,
                "accuracy": accuracy,
                "majority": majority,
                "tells_apart": 1 - accuracy <= MAX_ERROR * (1 - majority),
                "classes": [class_names[label] for label, index in youden.items() if index >= MIN_YOUDEN],
            }
        )
    return shortcuts


def _cross_validated(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predictions of each fold by a classifier fitted to the others: a tree, or for text a table."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.naive_bayes import CategoricalNB
    from sklearn.tree import DecisionTreeClassifier

    classifier: Any = DecisionTreeClassifier(
        max_leaf_nodes=2 * len(np.unique(labels)), min_samples_leaf=3, random_state=0
    )
    if values.dtype.kind == "U":
        names, values = np.unique(values, return_inverse=True)
        classifier = CategoricalNB(alpha=1e-3, min_categories=len(names))  # the most frequent class of each text
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    predicted: np.ndarray = cross_val_predict(classifier, values[:, None], labels, cv=folds)
    return predicted


def _youden(predicted: np.ndarray, true: np.ndarray) -> float:
    """True positive rate minus false positive rate."""
    return float(predicted[true].mean() - predicted[~true].mean())


def source_folders(files: Sequence[str], labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The folder of each file without the folder that names its class: text `[N]`.

    The latter is the first level at which folders and classes correspond one to one, and others with the class's name.
    """
    parents = [file.split("/")[:-1] for file in files]
    depth = max(map(len, parents), default=0)
    levels = [[folders[i] if i < len(folders) else "" for folders in parents] for i in range(depth)]
    kept = []
    is_first = True
    for level in levels:
        pairs = set(zip(level, labels.tolist(), strict=True))
        corresponds = len(pairs) == len(set(level)) == len({label for _, label in pairs})
        named = all(name.lower() == class_names[label].lower() for name, label in pairs)
        if not (corresponds and is_first) and not named:
            kept.append(level)
        is_first = is_first and not corresponds
    return np.array(["/".join(folders) for folders in zip(*kept, strict=True)] if kept else [""] * len(files))
