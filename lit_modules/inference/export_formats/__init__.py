"""Writers of exports, a file for each runtime. Their packages are imported on demand."""
