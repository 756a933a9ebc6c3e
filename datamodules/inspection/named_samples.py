"""Samples of an inspection by their names."""

from collections.abc import Sequence

import numpy as np

from datamodules.datamodule import DataModule
from datamodules.loader import to_float


def class_of_each(datamodule: DataModule) -> dict[str, str]:
    """The class of each sample of all splits, by its name, after `setup("inspect")`."""
    return {
        file: datamodule.class_names[label]
        for samples in datamodule.inspected.splits.values()
        for file, label in zip(samples.files, samples.labels.tolist(), strict=True)
    }


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
