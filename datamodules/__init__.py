"""Data modules: from a source of samples to batches. Imports nothing from lit_modules."""
