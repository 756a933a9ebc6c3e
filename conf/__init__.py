"""Configuration: the YAML files, their schema, and the answers to mistakes in them."""
