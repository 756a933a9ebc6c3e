"""What we learn from: data modules that turn a source of images into batches. Knows nothing of lit_modules."""
