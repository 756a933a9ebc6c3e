"""Strategies, durable checkpoints, process setup, the fast epoch loop."""
