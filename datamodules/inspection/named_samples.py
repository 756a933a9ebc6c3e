"""Samples of an inspection by their names."""

from collections.abc import Sequence

import numpy as np

from datamodules.datamodule import DataModule
from datamodules.labels import label_sets
from datamodules.loader import to_float


def class_of_each(datamodule: DataModule) -> dict[str, str]:
    """The class, or the classes, of each sample of all splits, by its name, after `setup("inspect")`."""
    classes: dict[str, str] = {}
    for samples in datamodule.inspected.splits.values():
        labels, names = label_sets(samples.labels.numpy(), datamodule.class_names)
        classes |= {file: names[label] for file, label in zip(samples.files, labels.tolist(), strict=True)}
    return classes


def read_samples(datamodule: DataModule, files: Sequence[str]) -> np.ndarray:
    """Names → samples, float32 `[N, C, *spatial]`, of images in [0, 1]."""
    data = datamodule.inspected
    row_of = {
        file: row
        for samples in data.splits.values()
        for file, row in zip(samples.files, samples.rows.tolist(), strict=True)
    }
    (inputs,) = data.loaded.inputs.read([np.array([row_of[file] for file in files])])
    return to_float(inputs).numpy()
