"""What the user types: configuration files, their schema, and the answers to mistakes in them."""
