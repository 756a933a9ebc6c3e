"""`task=inspect`: counts, sizes, damaged and unusual files, duplicates, shortcuts."""
