"""Images and uniform numbers that tests of augmentations and mixings share."""

import numpy as np
import torch
from torch import Tensor

EDGES = (0.0, 0.2, 0.5, 0.8, 1 - 2**-24)


def images(samples: int = 6, channels: int = 3, height: int = 7, width: int = 10, seed: int = 0) -> Tensor:
    return torch.rand(samples, channels, height, width, generator=torch.Generator().manual_seed(seed))


def numbers(samples: int, draws: int) -> Tensor:
    """Uniform numbers from NumPy, the ends of the range among them."""
    drawn = torch.from_numpy(np.random.default_rng(1).random((samples, draws), np.float32))
    drawn[0], drawn[1] = EDGES[0], EDGES[-1]
    return drawn
