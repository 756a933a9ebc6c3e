"""Augmentation of image batches on their device, reproducible from (seed, epoch, sample).

An augmentation is a pure function of images and uniform random numbers: it declares how many numbers it needs per image
(`draws`) and receives them as `[N, draws]`. Its result does not depend on batch size, workers, ranks or earlier calls.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from conf.errors import UserError


class Augmentation(Protocol):
    """Changes images by uniform random numbers.

    Float images `[N, C, H, W]` in [0, 1], uniform numbers `[N, draws]` in [0, 1) → images of the same shape.

    An optional method `numbers(index, seed, epoch)` returns the numbers `[N, draws]` in place of `uniform`.
    """

    draws: int

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor: ...


def augment(images: Tensor, index: Tensor, seed: int, epoch: int, augmentations: Sequence[Augmentation]) -> Tensor:
    """Applies the augmentations in order.

    Args:
        images: float `[N, C, H, W]` in [0, 1].
        index: positions of the samples in the dataset, int64 `[N]`.
    """
    draws = [augmentation.draws for augmentation in augmentations]
    parts = uniform(index, seed, epoch, sum(draws)).split(draws, dim=1)
    for augmentation, part in zip(augmentations, parts, strict=True):
        if hasattr(augmentation, "numbers"):
            part = augmentation.numbers(index, seed, epoch)
        images = augmentation(images, part)
    return images


def uniform(index: Tensor, seed: int, epoch: int, draws: int) -> Tensor:
    """Counter-based uniform random numbers, float32 `[N, draws]` in [0, 1).

    Each is a hash of (seed, epoch, index, draw): SplitMix64 of Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators" (2014): each input is added to the state, which is then mixed. Integer operations only, so that
    CPU and CUDA give the same bits.
    """
    state = _mix(_mix(torch.tensor(seed)) + epoch)
    state = _mix(_mix(index + state)[:, None] + torch.arange(draws, device=index.device))
    return ((state >> 40) & 0xFFFFFF).to(torch.float32) / 2**24


def _mix(state: Tensor) -> Tensor:
    """Finalizer of SplitMix64 on int64; the masks make `>>` a logical shift."""
    state = state + (0x9E3779B97F4A7C15 - 2**64)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    state = (state ^ ((state >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return state ^ ((state >> 31) & (2**33 - 1))


class PerSample:
    """Applies a transform of single images to each image.

    It uses torch's global generator, which is seeded for each image and restored afterwards. Slower than the batched
    augmentations; synchronizes on CUDA.

    Args:
        transform: of images `[C, H, W]`, such as one of `torchvision.transforms.v2`.

    Raises:
        UserError: it draws random numbers from another generator, so that no run could be resumed or repeated.
    """

    draws = 1

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform
        self._is_checked = False

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        seeds = (uniform[:, 0] * 2**24).long().tolist()
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            outputs = self._apply(images, seeds)
            if not self._is_checked and not all(map(torch.equal, outputs, self._apply(images, seeds))):
                problem = f"{type(self.transform).__name__} gives other images for the same seed"
                raise UserError(f"datamodule.augment: {problem}; draw its random numbers by torch, as torch.rand(1)")
        self._is_checked = True
        return torch.stack(outputs) if outputs else images

    def _apply(self, images: Tensor, seeds: list[int]) -> list[Tensor]:
        outputs = []
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(seed)
            outputs.append(self.transform(image))
        return outputs


def as_augmentation(transform: Any) -> Augmentation:
    """Wraps a transform of single images in `PerSample`; returns an augmentation unchanged."""
    return transform if hasattr(transform, "draws") else PerSample(transform)
