"""What Lightning calls at the edges of epochs and runs."""
