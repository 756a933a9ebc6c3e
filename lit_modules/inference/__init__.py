"""A trained network in use: predict, export, temperature scaling."""
