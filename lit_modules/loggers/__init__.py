"""TensorBoard, and one CSV row an epoch."""
