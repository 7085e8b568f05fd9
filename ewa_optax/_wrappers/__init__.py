"""What is made of whole optimizers: accumulation of gradients, watched norms, skipped spikes."""
