"""Augmentation of image batches on their device, reproducible from (seed, epoch, sample).

An augmentation is a pure function of images and uniform random numbers: it declares how many numbers it needs per image
(`draws`) and receives them as `[N, draws]`. Its result does not depend on batch size, workers, ranks or earlier calls.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """Float images `[N, C, H, W]` in [0, 1] and uniform numbers `[N, draws]` in [0, 1) → images of that shape.

    An optional method `numbers(index, seed, epoch)` returns the numbers `[N, draws]` in place of `uniform`.
    """

    draws: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor: ...


def augment(images: Tensor, index: Tensor, seed: int, epoch: int, augmentations: Sequence[Augmentation]) -> Tensor:
    """Applies the augmentations in order to images `[N, C, H, W]` with dataset positions `index` `[N]`."""
    draws = [augmentation.draws for augmentation in augmentations]
    parts = uniform(index, seed, epoch, sum(draws)).split(draws, dim=1)
    for augmentation, part in zip(augmentations, parts, strict=True):
        if hasattr(augmentation, "numbers"):
            part = augmentation.numbers(index, seed, epoch)
        images = augmentation(images, part)
    return images


def uniform(index: Tensor, seed: int, epoch: int, draws: int) -> Tensor:
    """Counter-based random numbers: a hash of (seed, epoch, index, draw), float32 `[N, draws]` in [0, 1).

    SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): each input is added to
    the state, which is then mixed. Integer operations only, so that CPU and CUDA give the same bits.
    """
    state = _mix(_mix(torch.tensor(seed)) + epoch)
    state = _mix(_mix(index + state)[:, None] + torch.arange(draws, device=index.device))
    return ((state >> 40) & 0xFFFFFF).to(torch.float32) / 2**24


def _mix(state: Tensor) -> Tensor:
    """The finalizer of SplitMix64 on int64; products wrap; `>>` is arithmetic, hence the masks."""
    state = state + (0x9E3779B97F4A7C15 - 2**64)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ ((state >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return state ^ ((state >> 31) & (2**33 - 1))


class PerSample:
    """Applies a transform of images `[C, H, W]`, such as a `torchvision.transforms.v2` one, to each image.

    Such a transform uses torch's global generator, which is seeded for each image and restored afterwards. Slower than
    the batched augmentations; synchronizes on CUDA.
    """

    draws = 1

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        outputs = []
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            for image, seed in zip(images, (uniform[:, 0] * 2**24).long().tolist(), strict=True):
                torch.manual_seed(seed)
                outputs.append(self.transform(image))
        return torch.stack(outputs) if outputs else images


def as_augmentation(transform: Any) -> Augmentation:
    """Wraps a transform of single images in `PerSample`; returns an augmentation unchanged."""
    return transform if hasattr(transform, "draws") else PerSample(transform)
