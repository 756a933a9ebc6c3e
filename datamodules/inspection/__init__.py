"""`task=inspect`: counts, sizes, damaged files, duplicates."""
