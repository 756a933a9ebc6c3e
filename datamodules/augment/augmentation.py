"""Random changes of a batch of images, on its device, drawn from (seed, epoch, sample) and from nothing else.

An augmentation is a pure function of images and uniform numbers: it states how many numbers it needs an image
(`draws`) and gets them as `[N, draws]`. So its outcome does not depend on batch size, workers, ranks, or the past.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """Float images `[N, C, H, W]` in [0, 1] and uniform numbers `[N, draws]` in [0, 1) → images of that shape.

    One whose numbers are not drawn anew each epoch has a method `numbers(index, seed, epoch)` that gives them."""

    draws: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor: ...


def augment(images: Tensor, index: Tensor, seed: int, epoch: int, augmentations: Sequence[Augmentation]) -> Tensor:
    """Applies the augmentations one after another to images `[N, C, H, W]` with positions `index` `[N]`."""
    draws = [augmentation.draws for augmentation in augmentations]
    parts = uniform(index, seed, epoch, sum(draws)).split(draws, dim=1)
    for augmentation, part in zip(augmentations, parts, strict=True):
        own = getattr(augmentation, "numbers", None)
        images = augmentation(images, own(index, seed, epoch) if own else part)
    return images


def uniform(index: Tensor, seed: int, epoch: int, draws: int) -> Tensor:
    """Uniform numbers for each sample: a hash of (seed, epoch, index, draw), float32 `[N, draws]` in [0, 1).

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): each input is added to the state
    and mixed. Integer operations only, so that CPU and CUDA give the same bits.
    """
    state = _mix(_mix(torch.tensor(seed)) + epoch)
    state = _mix(_mix(index + state)[:, None] + torch.arange(draws, device=index.device))
    return ((state >> 40) & 0xFFFFFF).to(torch.float32) / 2**24


def _mix(state: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64, whose products wrap; `>>` is arithmetic, hence the masks."""
    state = state + (0x9E3779B97F4A7C15 - 2**64)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ ((state >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return state ^ ((state >> 31) & (2**33 - 1))


class PerSample:
    """Any transform of images `[C, H, W]`, such as those of `torchvision.transforms.v2`, one image at a time.

    It draws from torch's global generator, so that one is seeded for each image and put back afterwards. Slower
    than the batched classes above, and on CUDA it waits for the device.
    """

    draws = 1

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        changed = []
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            for image, seed in zip(images, (uniform[:, 0] * 2**24).long().tolist(), strict=True):
                torch.manual_seed(seed)
                changed.append(self.transform(image))
        return torch.stack(changed) if changed else images


def as_augmentation(transform: Any) -> Augmentation:
    """An augmentation as it is; any other transform of one image wrapped in `PerSample`."""
    return transform if hasattr(transform, "draws") else PerSample(transform)
