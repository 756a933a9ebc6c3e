"""Random changes and mixtures of a batch of images, drawn from (seed, epoch, sample)."""
