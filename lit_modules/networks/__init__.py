"""Networks: `nn.Module`s built from `input_shape`, `num_classes` and config options."""
