"""Inference with trained networks: prediction, export, temperature scaling."""
