"""Networks: plain `nn.Module`s built from (input_shape, num_classes) and the choices of their config file."""
