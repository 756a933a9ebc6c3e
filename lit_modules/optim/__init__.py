"""Optimizers, parameter groups, schedules, losses, freezing."""
