"""Groups of duplicate samples, with their files, splits and classes."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from datamodules.datamodule import DataModule
from datamodules.image_datamodule import ImageDataModule
from datamodules.inspection.duplicates import (
    MIN_SIMILARITY,
    candidate_pairs,
    connected_groups,
    group_equal,
    similarity,
    spectrum,
)
from datamodules.inspection.measurements import Measured, in_batches, measure
from datamodules.labels import label_sets
from datamodules.storage.image_header import content
from datamodules.storage.inputs import Inspected
from datamodules.storage.worker_pool import progress

Report = dict[str, Any]


def label_conflicts(datamodule: DataModule) -> list[Report]:
    """Groups of exact and near duplicates with different labels.

    Args:
        datamodule: after `setup("inspect")`.
    """
    data = datamodule.inspected
    report = duplicates_report(datamodule, data, measure(datamodule, data))
    return [group for group in (*report["exact"], *(report["near"] or ())) if group["label_conflict"]]


def duplicates_report(datamodule: DataModule, data: Inspected, measured: Measured) -> Report:
    """Groups of exact and, among images of at least 16 × 16, near duplicates."""
    rows, hashes = measured.rows, measured.hashes
    describe = describer(datamodule, data)
    exact = [rows[group].tolist() for group in group_equal(measured.digests)]
    report: Report = {
        "exact": [describe(group) | {"byte_identical": _byte_identical(datamodule, data, group)} for group in exact],
        "near": None,  # not searched
        "near_search_complete": None,
    }
    if hashes is not None:
        # Of each group of exact duplicates, one is compared.
        is_copy = np.isin(rows, [row for group in exact for row in group[1:]])
        pairs, values, report["near_search_complete"] = _near_pairs(data, rows[~is_copy], hashes[~is_copy])
        copies = {group[0]: group for group in exact}
        report["near"] = []
        for group, least_similar in _near_groups(pairs, values):
            members = sorted(member for row in group for member in copies.get(row, [row]))
            report["near"].append(describe(members) | {"similarity": least_similar})
    return report


def _near_pairs(data: Inspected, rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs of near duplicates.

    Returns their rows, int64 `[M, 2]`, their similarity `[M]`, and whether the search was complete.
    """
    positions, complete = candidate_pairs(hashes)
    pairs = rows[positions]
    batches = [batch.ravel() for batch in in_batches(pairs, 2 * data.loaded.inputs.sample_bytes)]
    similarities = [np.empty(0, np.float32)]
    for images in progress(data.loaded.inputs.read(batches), len(pairs), "comparing images", _num_pairs):
        spectra = spectrum(images.numpy())
        similarities.append(similarity(spectra[::2], spectra[1::2]))
    values = np.concatenate(similarities)
    near = values >= MIN_SIMILARITY
    return pairs[near], values[near], complete


def _num_pairs(images: Any) -> int:
    return len(images) // 2


def _near_groups(pairs: np.ndarray, values: np.ndarray) -> list[tuple[list[int], float]]:
    """Connected groups of rows, and the least similarity of a pair in each."""
    groups = connected_groups(pairs)
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    least = [1.0] * len(groups)
    for row, value in zip(pairs[:, 0].tolist(), values.tolist(), strict=True):
        number = group_of[row]
        least[number] = min(value, least[number])
    return list(zip(groups, least, strict=True))


def describer(datamodule: DataModule, data: Inspected) -> Callable[[list[int]], Report]:
    """Returns a function that describes a group of samples, given their rows."""
    split_names = list(data.splits)
    split = np.zeros(len(data.files), np.int64)
    classes = np.full(len(data.files), "", object)
    for number, samples in enumerate(data.splits.values()):
        split[samples.rows] = number
        labels, names = label_sets(samples.labels.numpy(), datamodule.class_names)
        classes[samples.rows] = [names[label] for label in labels.tolist()]

    def describe(rows: list[int]) -> Report:
        return {
            "across_splits": len(set(split[rows])) > 1,
            "label_conflict": len(set(classes[rows])) > 1,
            "files": [
                {"file": data.files[row], "split": split_names[split[row]], "class": classes[row]} for row in rows
            ],
        }

    return describe


def _byte_identical(datamodule: DataModule, data: Inspected, rows: list[int]) -> list[list[str]]:
    """Names of files with the same bytes; none for samples in memory."""
    names: dict[bytes, list[str]] = {}
    for row in rows:
        file = content(data.items[row]) if isinstance(datamodule, ImageDataModule) else None
        if file is not None:
            names.setdefault(hashlib.blake2b(file).digest(), []).append(data.files[row])
    return [group for group in names.values() if len(group) > 1]
