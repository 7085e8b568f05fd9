"""What is made of whole optimizers: accumulation, groups of parameters, watched norms, skipped spikes."""
