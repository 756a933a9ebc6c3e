"""scikit-learn's 1,797 handwritten digits: real data that ships inside a dependency, so it needs no download."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import Samples


@dataclass(kw_only=True, eq=False, repr=False)
class DigitsDataModule(ImageDataModule):
    """8×8 grey pictures of ten classes, without splits of their own.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the source counts ink from 0 to 16
        files = [f"digits/{i:04d}" for i in range(len(pixels))]
        pictures = Samples([Image.fromarray(image) for image in pixels], digits.target.astype(np.int64), files)
        return {"train": pictures}, [str(name) for name in digits.target_names]
