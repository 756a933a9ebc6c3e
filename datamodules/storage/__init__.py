"""From an image file to decoded samples in memory or on disk."""
