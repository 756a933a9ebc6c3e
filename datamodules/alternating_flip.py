"""AlternatingFlip: every picture is seen both ways in any two epochs."""

import torch
from torch import Tensor

from datamodules.augment import uniform


class AlternatingFlip:
    """Mirrors half of the pictures left to right, in the next epoch the other half, and so on: no picture is seen the
    same way twice in a row, as a half of them are by a random flip. Jordan, arXiv:2404.00498, section 3.3.

    Which half comes first is drawn from (seed, sample) alone; see `numbers`.
    """

    draws = 1

    def numbers(self, index: Tensor, seed: int, epoch: int) -> Tensor:
        """What `__call__` takes in an epoch for samples `[N]`: in odd ones the opposite of that in even ones."""
        first = uniform(index, seed, 0, 1)
        return first if epoch % 2 == 0 else (first + 0.5) % 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform[:, :, None, None] < 0.5, images.flip(-1), images)
