"""What we learn from: data modules that turn a source of pictures into batches. Knows nothing of lit_modules."""
