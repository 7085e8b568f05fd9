"""Measurements behind the claims of the README, each a module to run: `python -m benchmarks.exactness`."""
