"""What is made of whole optimizers: accumulation of gradients, groups of parameters."""
