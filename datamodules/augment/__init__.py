"""Batched augmentations, Mixup and CutMix, with random numbers from (seed, epoch, sample)."""
