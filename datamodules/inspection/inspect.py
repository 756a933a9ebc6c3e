"""Inspects a dataset before training: counts, sizes, unreadable and unusual files, duplicates, shortcuts."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.files import make_output, write_text
from datamodules.datamodule import DataModule
from datamodules.image_datamodule import ImageDataModule
from datamodules.inspection.duplicate_groups import describer, duplicates_report
from datamodules.inspection.image_files import ImageFile, read_image_files
from datamodules.inspection.measurements import Light, Measured, measure
from datamodules.inspection.report import draw_sheet, print_report
from datamodules.inspection.shortcuts import find_shortcuts, source_folders
from datamodules.inspection.unusual import find_unusual
from datamodules.labels import count_labels, label_sets
from datamodules.storage.cache import CachedImages
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.inputs import Inspected
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import Workers, chunks, cores, progress

Report = dict[str, Any]

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
    measured = measure(datamodule, data)
    if isinstance(datamodule, ImageDataModule):
        report |= _files_report(datamodule, data, measured)
    bad = data.loaded.bad
    report["unreadable"] = [{"file": data.files[i], "reason": bad[i]} for i in sorted(bad)]
    report["duplicates"] = duplicates_report(datamodule, data, measured)
    write_text(output / "inspection.json", json.dumps(report, indent=2) + "\n")
    if isinstance(datamodule, ImageDataModule):
        draw_sheet(data.splits, datamodule.class_names, output / "contact_sheet.png")
    print_report(report, output)


def _samples_report(datamodule: DataModule, data: Inspected) -> Report:
    """Counts and statistics of the decoded samples."""
    names = datamodule.class_names
    counts = {
        split: count_labels(samples.labels.numpy(), len(names)).tolist() for split, samples in data.splits.items()
    }
    train = counts["train"]
    classes: dict[str, Report] = {}
    for label, name in enumerate(names):
        classes[name] = {split: split_counts[label] for split, split_counts in counts.items()}
        classes[name]["weight"] = _auto_weight(datamodule, train[label]) if train[label] else None
    largest, smallest = int(np.argmax(train)), int(np.argmin(train))
    mean, std = datamodule.mean_std
    inputs = data.loaded.inputs
    return {
        "splits": {split: len(samples.labels) for split, samples in data.splits.items()},
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


def _auto_weight(datamodule: DataModule, count: int) -> float:
    """That of lit_module.class_weights=auto for a class of so many training samples."""
    num_samples = len(datamodule.split("train").labels)
    return num_samples / count - 1 if datamodule.is_multi_label else num_samples / (len(datamodule.class_names) * count)


def _files_report(datamodule: ImageDataModule, data: Inspected, measured: Measured) -> Report:
    """Sizes, modes, formats and decoding time of the image files, unusual images, and shortcuts."""
    items = data.items
    with Workers(datamodule.num_workers, items) as workers:
        parts = progress(workers.map(read_image_files, chunks(items)), len(items), "reading headers", len)
        all_files = [file for part in parts for file in part]
        num_processes = min(workers.count, cores())
    readable = [file for row in measured.rows.tolist() if isinstance(file := all_files[row], ImageFile)]
    headers = [file.header for file in readable]
    sizes = Counter((header.height, header.width) for header in headers).most_common(NUM_SIZES)
    timed = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, NUM_TIMED).astype(int)).tolist()]
    channels, height, width = data.loaded.inputs.shape
    began = time.perf_counter()
    decode_all(timed, ImageSpec(channels, (height, width), *datamodule.resizing))
    seconds = (time.perf_counter() - began) / len(timed)
    report: Report = {
        "sizes": {
            "height": _range_of([header.height for header in headers]),
            "width": _range_of([header.width for header in headers]),
            "most_common": [{"height": size[0], "width": size[1], "count": count} for size, count in sizes],
        },
        "modes": dict(Counter(header.mode for header in headers).most_common()),
        "formats": dict(Counter(header.format or "in memory" for header in headers).most_common()),
        "decoding": {
            "seconds_per_image": seconds,  # on one core
            "num_timed": len(timed),
            "total_seconds": seconds * len(items) / num_processes,
        },
    }
    if measured.light and len(readable) == len(measured.rows):  # none was removed since it was decoded
        report |= _images_report(datamodule, data, measured.rows, measured.light, readable)
    return report


def _images_report(
    datamodule: ImageDataModule, data: Inspected, rows: np.ndarray, light: Light, files: list[ImageFile]
) -> Report:
    """Unusual images of all splits, and statistics that tell the classes of the training split apart."""
    height = np.array([file.header.height for file in files], float)
    width = np.array([file.header.width for file in files], float)
    describe = describer(datamodule, data)
    unusual = {
        kind: [describe([rows[i]])["files"][0] | {"value": value} for i, value in found]
        for kind, found in find_unusual(light, height, width).items()
    }
    train = data.splits["train"]
    labels, names = label_sets(train.labels.numpy(), datamodule.class_names)
    of_train = np.searchsorted(rows, train.rows)
    statistics = {
        "width": width,
        "height": height,
        "aspect ratio": width / height,
        "brightness": light.brightness,
        "file size": np.array([file.size for file in files], float),
        "file format": np.array([file.header.format or "" for file in files]),
        "colour mode": np.array([file.header.mode for file in files]),
        "camera": np.array([file.camera for file in files]),
    }
    of_samples = {name: values[of_train] for name, values in statistics.items()}
    of_samples["source folder"] = source_folders(train.files, labels, names)
    return {"unusual": unusual, "shortcuts": find_shortcuts(of_samples, labels, names)}


def _range_of(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
