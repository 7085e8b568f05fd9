"""What is made of whole optimizers: accumulation of gradients, and the like."""
