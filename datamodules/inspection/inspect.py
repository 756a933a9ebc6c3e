"""What a collection of samples is made of, and what is wrong with it: told before anything is learned from it."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.files import make_output, write_text
from datamodules.datamodule import DataModule, Inspected
from datamodules.image_datamodule import ImageDataModule
from datamodules.inspection.duplicates import (
    FREQUENCIES,
    LEAST,
    candidates,
    connected,
    hashes,
    likeness,
    same,
    spectrum,
)
from datamodules.inspection.report import draw_sheet, print_report
from datamodules.storage.cache import CachedImages
from datamodules.storage.decode import ImageSpec, decode_all, digests
from datamodules.storage.image_header import Header, headers
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import Workers, chunks, cores, progress

Report = dict[str, Any]

# Bytes of samples that are looked at together.
TOGETHER = 2**22
# Images whose decoding is timed.
TIMED = 500
COMMONEST = 5


def inspect(datamodule: DataModule, output: Path) -> None:
    """Writes `inspection.json` and, of images, `contact_sheet.png` into the folder `output`, and prints the first.

    Args:
        datamodule: after `setup("inspect")`.

    Raises:
        UserError: the folder cannot be written.
    """
    make_output(output)
    found = datamodule.inspected
    report = _content(datamodule, found)
    if isinstance(datamodule, ImageDataModule):
        report |= _files(datamodule, found)
    report["damaged"] = [{"file": found.files[i], "reason": found.loaded.bad[i]} for i in sorted(found.loaded.bad)]
    report["duplicates"] = _duplicates(datamodule, found)
    write_text(output / "inspection.json", json.dumps(report, indent=2) + "\n")
    if isinstance(datamodule, ImageDataModule):
        draw_sheet(found.splits, datamodule.class_names, output / "contact_sheet.png")
    print_report(report, output)


def _content(datamodule: DataModule, found: Inspected) -> Report:
    """What is counted and measured of samples as a network gets them."""
    names = datamodule.class_names
    counts = {
        split: np.bincount(samples.labels.numpy(), minlength=len(names)).tolist()
        for split, samples in found.splits.items()
    }
    train = counts["train"]
    largest, smallest = int(np.argmax(train)), int(np.argmin(train))
    mean, std = datamodule.mean_std
    inputs = found.loaded.inputs
    return {
        "splits": {split: sum(each) for split, each in counts.items()},
        "classes": {
            name: {split: each[label] for split, each in counts.items()}
            # That of lit_module.class_weights=auto
            | {"weight": sum(train) / (len(names) * train[label]) if train[label] else None}
            for label, name in enumerate(names)
        },
        "imbalance": {
            "largest": names[largest],
            "smallest": names[smallest],
            "ratio": train[largest] / train[smallest] if train[smallest] else None,
        },
        "input": {"shape": list(inputs.shape), "mean": mean, "std": std},
        "decoded": {
            "bytes": inputs.sample_bytes * len(found.files),
            "free_memory": free_memory(),
            "store": str(inputs.folder) if isinstance(inputs, CachedImages) else None,
        },
    }


def _files(datamodule: ImageDataModule, found: Inspected) -> Report:
    """What images are before they are brought to one form, and how long that takes."""
    items = found.items
    with Workers(datamodule.num_workers, items) as workers:
        looks = progress(workers.map(headers, chunks(items)), len(items), "looking at headers", len)
        each = [header for part in looks for header in part]
        processes = workers.count
    known = [header for i, header in enumerate(each) if isinstance(header, Header) and i not in found.loaded.bad]
    sizes = Counter((header.height, header.width) for header in known)
    timed = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, TIMED).astype(int)).tolist()]
    channels, height, width = found.loaded.inputs.shape
    began = time.perf_counter()
    decode_all(timed, ImageSpec(channels, (height, width), datamodule.resize, datamodule.jpeg_draft))
    seconds = (time.perf_counter() - began) / len(timed)
    return {
        "sizes": {
            "height": _spread([header.height for header in known]),
            "width": _spread([header.width for header in known]),
            "commonest": [
                {"height": size[0], "width": size[1], "images": count} for size, count in sizes.most_common(COMMONEST)
            ],
        },
        "modes": dict(Counter(header.mode for header in known).most_common()),
        "formats": dict(Counter(header.format or "in memory" for header in known).most_common()),
        "decoding": {
            "seconds_per_image": seconds,  # on one core
            "timed": len(timed),
            "seconds": seconds * len(items) / min(processes, cores()),  # of all, by all processes
        },
    }


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)} if values else {}


def _duplicates(datamodule: DataModule, found: Inspected) -> Report:
    """Groups of the same samples, and groups of images that are nearly the same."""
    rows = np.sort(np.concatenate([samples.rows for samples in found.splits.values()]))
    shape = found.loaded.inputs.shape
    comparable = isinstance(datamodule, ImageDataModule) and min(shape[1:]) >= FREQUENCIES
    contents, perceptual = _numbers(found, rows, comparable)
    describe = _describer(datamodule, found)
    exact = [rows[group].tolist() for group in same(contents)]
    twins = {group[0]: group for group in exact}
    report: Report = {
        "exact": [describe(group) | {"byte_identical": _byte_identical(found, group)} for group in exact],
        "near": None,  # not looked for
        "near_complete": None,
    }
    if comparable:
        repeated = np.isin(rows, [row for group in exact for row in group[1:]])
        pairs, values, report["near_complete"] = _near(found, rows[~repeated], perceptual[~repeated])
        least: dict[int, float] = {}
        groups = connected(pairs)
        home = {row: number for number, group in enumerate(groups) for row in group}
        for (first, _), value in zip(pairs.tolist(), values.tolist(), strict=True):
            least[home[first]] = min(value, least.get(home[first], 1.0))
        report["near"] = [
            describe(sorted(each for row in group for each in twins.get(row, [row]))) | {"likeness": least[number]}
            for number, group in enumerate(groups)
        ]
    return report


def _numbers(found: Inspected, rows: np.ndarray, comparable: bool) -> tuple[np.ndarray, np.ndarray]:
    """The digest of each sample and its hash, uint64 `[N]`, where these are needed."""
    known = found.loaded.digests
    contents = np.empty(len(rows), np.uint64) if known is None else known[rows]
    perceptual = np.empty(len(rows) if comparable else 0, np.uint64)
    if known is None or comparable:
        parts = _parts(rows, found.loaded.inputs.sample_bytes)
        samples = progress(found.loaded.inputs.read(parts), len(rows), "looking for duplicates", len)
        done = 0
        for part in samples:
            here = slice(done, done + len(part))
            if known is None:
                contents[here] = digests(part.numpy())
            if comparable:
                perceptual[here] = hashes(spectrum(part.numpy()))
            done = here.stop
    return contents, perceptual


def _near(found: Inspected, rows: np.ndarray, perceptual: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs of rows of images that are nearly the same, int64 `[M, 2]`, how much alike they are, `[M]`, and whether
    these are all."""
    positions, whole = candidates(perceptual)
    pairs = rows[positions]
    parts = _parts(pairs, 2 * found.loaded.inputs.sample_bytes)
    values = [np.empty(0, np.float32)]
    for part in progress(found.loaded.inputs.read(each.ravel() for each in parts), len(pairs), "comparing", _half):
        spectra = spectrum(part.numpy())
        values.append(likeness(spectra[::2], spectra[1::2]))
    found_values = np.concatenate(values)
    return pairs[found_values >= LEAST], found_values[found_values >= LEAST], whole


def _half(part: Any) -> int:
    return len(part) // 2


def _parts(array: np.ndarray, bytes_each: int) -> list[np.ndarray]:
    """An array in parts that stand for some megabytes of samples each."""
    return np.array_split(array, -(-len(array) * bytes_each // TOGETHER)) if len(array) else []


def _describer(datamodule: DataModule, found: Inspected) -> Callable[[list[int]], Report]:
    """Tells what samples of some rows are, and whether it matters that they are the same."""
    names, order = datamodule.class_names, list(found.splits)
    split, label = (np.zeros(len(found.files), np.int64) for _ in range(2))
    for number, samples in enumerate(found.splits.values()):
        split[samples.rows], label[samples.rows] = number, samples.labels.numpy()

    def describe(rows: list[int]) -> Report:
        return {
            "across_splits": len(set(split[rows])) > 1,
            "label_conflict": len(set(label[rows])) > 1,
            "files": [
                {"file": found.files[row], "split": order[split[row]], "class": names[label[row]]} for row in rows
            ],
        }

    return describe


def _byte_identical(found: Inspected, rows: list[int]) -> list[list[str]]:
    """Which of some files are copies of another, by name; of samples that are no files of their own, none."""
    copies: dict[bytes, list[str]] = {}
    for row in rows:
        if isinstance(found.items[row], str):
            content = hashlib.blake2b(Path(found.items[row]).read_bytes()).digest()
            copies.setdefault(content, []).append(found.files[row])
    return [files for files in copies.values() if len(files) > 1]
