"""An image is mirrored in every other epoch, and half of all images begin with it."""

import torch
from torch import Tensor

from datamodules.augment.transforms import AlternatingFlip

IMAGES = torch.rand(1000, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def mirrored(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Which of the images come out mirrored; all others must come out as they are."""
    flip, images = AlternatingFlip(), IMAGES[index]
    outputs = flip(images, flip.numbers(index, seed, epoch))
    found = (outputs == images.flip(-1)).all((1, 2, 3))
    assert torch.equal(outputs[~found], images[~found])
    return found


def test_image_is_mirrored_in_every_other_epoch() -> None:
    every = torch.arange(1000)
    even, odd, later = (mirrored(0, epoch, every) for epoch in (0, 1, 6))
    assert torch.equal(odd, ~even)
    assert torch.equal(later, even)


def test_half_of_the_images_begin_mirrored_whatever_batch_they_are_in() -> None:
    every = torch.arange(1000)
    found = mirrored(0, 0, every)
    assert 400 < found.sum() < 600
    assert torch.equal(mirrored(0, 0, every[7:300]), found[7:300])
    assert not torch.equal(mirrored(1, 0, every), found)
