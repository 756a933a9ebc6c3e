"""Inspects a dataset before training: counts, sizes, unreadable files and duplicates."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.files import make_output, write_text
from datamodules.datamodule import DataModule
from datamodules.image_datamodule import ImageDataModule
from datamodules.inspection.duplicates import (
    FREQUENCIES,
    MIN_SIMILARITY,
    candidate_pairs,
    connected_groups,
    group_equal,
    perceptual_hashes,
    similarity,
    spectrum,
)
from datamodules.inspection.report import draw_sheet, print_report
from datamodules.storage.cache import CachedImages
from datamodules.storage.decode import ImageSpec, decode_all, digests
from datamodules.storage.image_header import ImageHeader, content, read_headers
from datamodules.storage.inputs import Inspected
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import Workers, chunks, cores, progress

Report = dict[str, Any]

# Bytes of samples read at once.
BATCH_BYTES = 2**22
# Images whose decoding is timed.
NUM_TIMED = 500
# Image sizes listed.
NUM_SIZES = 5


def inspect(datamodule: DataModule, output: Path) -> None:
    """Writes `inspection.json`, for images `contact_sheet.png` too, and prints the report.

    Args:
        datamodule: after `setup("inspect")`.
        output: the folder to write to.

    Raises:
        UserError: the folder cannot be written.
    """
    make_output(output)
    data = datamodule.inspected
    report: Report = {"layout": datamodule.layout} | _samples_report(datamodule, data)
    if isinstance(datamodule, ImageDataModule):
        report |= _files_report(datamodule, data)
    bad = data.loaded.bad
    report["unreadable"] = [{"file": data.files[i], "reason": bad[i]} for i in sorted(bad)]
    report["duplicates"] = _duplicates_report(datamodule, data)
    write_text(output / "inspection.json", json.dumps(report, indent=2) + "\n")
    if isinstance(datamodule, ImageDataModule):
        draw_sheet(data.splits, datamodule.class_names, output / "contact_sheet.png")
    print_report(report, output)


def _samples_report(datamodule: DataModule, data: Inspected) -> Report:
    """Counts and statistics of the decoded samples."""
    names = datamodule.class_names
    counts = {
        split: np.bincount(samples.labels.numpy(), minlength=len(names)).tolist()
        for split, samples in data.splits.items()
    }
    train = counts["train"]
    classes: dict[str, Report] = {}
    for label, name in enumerate(names):
        classes[name] = {split: split_counts[label] for split, split_counts in counts.items()}
        # As of lit_module.class_weights=auto.
        classes[name]["weight"] = sum(train) / (len(names) * train[label]) if train[label] else None
    largest, smallest = int(np.argmax(train)), int(np.argmin(train))
    mean, std = datamodule.mean_std
    inputs = data.loaded.inputs
    return {
        "splits": {split: sum(split_counts) for split, split_counts in counts.items()},
        "classes": classes,
        "imbalance": {
            "largest": names[largest],
            "smallest": names[smallest],
            "ratio": train[largest] / train[smallest] if train[smallest] else None,
        },
        "input": {"shape": list(inputs.shape), "mean": mean, "std": std},
        "decoded": {
            "bytes": inputs.sample_bytes * len(data.files),
            "free_memory": free_memory(),
            "cache_entry": str(inputs.folder) if isinstance(inputs, CachedImages) else None,
        },
    }


def _files_report(datamodule: ImageDataModule, data: Inspected) -> Report:
    """Sizes, modes, formats and decoding time of the image files."""
    items = data.items
    with Workers(datamodule.num_workers, items) as workers:
        parts = progress(workers.map(read_headers, chunks(items)), len(items), "reading headers", len)
        headers = [header for part in parts for header in part]
        num_processes = min(workers.count, cores())
    readable = [
        header for i, header in enumerate(headers) if isinstance(header, ImageHeader) and i not in data.loaded.bad
    ]
    sizes = Counter((header.height, header.width) for header in readable).most_common(NUM_SIZES)
    timed = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, NUM_TIMED).astype(int)).tolist()]
    channels, height, width = data.loaded.inputs.shape
    began = time.perf_counter()
    decode_all(timed, ImageSpec(channels, (height, width), *datamodule.resizing))
    seconds = (time.perf_counter() - began) / len(timed)
    return {
        "sizes": {
            "height": _range_of([header.height for header in readable]),
            "width": _range_of([header.width for header in readable]),
            "most_common": [{"height": size[0], "width": size[1], "count": count} for size, count in sizes],
        },
        "modes": dict(Counter(header.mode for header in readable).most_common()),
        "formats": dict(Counter(header.format or "in memory" for header in readable).most_common()),
        "decoding": {
            "seconds_per_image": seconds,  # on one core
            "num_timed": len(timed),
            "total_seconds": seconds * len(items) / num_processes,
        },
    }


def _range_of(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _duplicates_report(datamodule: DataModule, data: Inspected) -> Report:
    """Groups of exact and, among images of at least 16 × 16, near duplicates."""
    rows = np.sort(np.concatenate([samples.rows for samples in data.splits.values()]))
    shape = data.loaded.inputs.shape
    comparable = isinstance(datamodule, ImageDataModule) and min(shape[1:]) >= FREQUENCIES
    sample_digests, hashes = _digests_and_hashes(data, rows, comparable)
    describe = _describer(datamodule, data)
    exact = [rows[group].tolist() for group in group_equal(sample_digests)]
    report: Report = {
        "exact": [describe(group) | {"byte_identical": _byte_identical(datamodule, data, group)} for group in exact],
        "near": None,  # not searched
        "near_search_complete": None,
    }
    if comparable:
        # Of each group of exact duplicates, one is compared.
        is_copy = np.isin(rows, [row for group in exact for row in group[1:]])
        pairs, values, report["near_search_complete"] = _near_pairs(data, rows[~is_copy], hashes[~is_copy])
        copies = {group[0]: group for group in exact}
        report["near"] = []
        for group, least_similar in _near_groups(pairs, values):
            members = sorted(member for row in group for member in copies.get(row, [row]))
            report["near"].append(describe(members) | {"similarity": least_similar})
    return report


def _digests_and_hashes(data: Inspected, rows: np.ndarray, comparable: bool) -> tuple[np.ndarray, np.ndarray]:
    """Digests and perceptual hashes of samples, uint64 `[N]` each; no hashes unless `comparable`."""
    known = data.loaded.digests
    sample_digests = np.empty(len(rows), np.uint64) if known is None else known[rows]
    hashes = np.empty(len(rows) if comparable else 0, np.uint64)
    if known is not None and not comparable:
        return sample_digests, hashes
    batches = data.loaded.inputs.read(_in_batches(rows, data.loaded.inputs.sample_bytes))
    start = 0
    for batch in progress(batches, len(rows), "hashing samples", len):
        pixels = batch.numpy()
        stop = start + len(pixels)
        if known is None:
            sample_digests[start:stop] = digests(pixels)
        if comparable:
            hashes[start:stop] = perceptual_hashes(spectrum(pixels))
        start = stop
    return sample_digests, hashes


def _near_pairs(data: Inspected, rows: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs of near duplicates.

    Returns their rows, int64 `[M, 2]`, their similarity `[M]`, and whether the search was complete.
    """
    positions, complete = candidate_pairs(hashes)
    pairs = rows[positions]
    batches = [batch.ravel() for batch in _in_batches(pairs, 2 * data.loaded.inputs.sample_bytes)]
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


def _in_batches(array: np.ndarray, bytes_each: int) -> list[np.ndarray]:
    """Splits an array into parts that refer to some megabytes of samples each."""
    return np.array_split(array, -(-len(array) * bytes_each // BATCH_BYTES)) if len(array) else []


def _describer(datamodule: DataModule, data: Inspected) -> Callable[[list[int]], Report]:
    """Returns a function that describes a group of duplicates, given its rows."""
    class_names, split_names = datamodule.class_names, list(data.splits)
    split = np.zeros(len(data.files), np.int64)
    label = np.zeros(len(data.files), np.int64)
    for number, samples in enumerate(data.splits.values()):
        split[samples.rows] = number
        label[samples.rows] = samples.labels.numpy()

    def describe(rows: list[int]) -> Report:
        return {
            "across_splits": len(set(split[rows])) > 1,
            "label_conflict": len(set(label[rows])) > 1,
            "files": [
                {"file": data.files[row], "split": split_names[split[row]], "class": class_names[label[row]]}
                for row in rows
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
