"""Loggers: TensorBoard, metrics.csv with one row per epoch, MLflow, Weights & Biases."""
