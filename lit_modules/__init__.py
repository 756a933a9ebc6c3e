"""How we learn: the Lightning module, networks, optimizers, schedules, callbacks. Knows nothing of datamodules."""
