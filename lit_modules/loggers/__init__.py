"""Loggers: TensorBoard, and metrics.csv with one row per epoch."""
