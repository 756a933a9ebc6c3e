"""scikit-learn's 1,797 handwritten digits, which need no download."""

from dataclasses import dataclass
from importlib.metadata import distribution

import numpy as np
from PIL import Image

from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import Samples

FILE = "sklearn/datasets/data/digits.csv.gz"


@dataclass(kw_only=True, eq=False, repr=False)
class DigitsDataModule(ImageDataModule):
    """8×8 grey images of ten classes, without official splits.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        # Importing scikit-learn, only to read this file, would take half a second.
        table = np.loadtxt(str(distribution("scikit-learn").locate_file(FILE)), np.int64, delimiter=",")
        pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # from 0 … 16
        files = [f"digits/{i:04d}" for i in range(len(pixels))]
        images = Samples([Image.fromarray(image) for image in pixels], table[:, -1].copy(), files)
        return {"train": images}, [str(digit) for digit in range(10)]
