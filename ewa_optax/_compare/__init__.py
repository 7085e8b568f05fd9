"""`python -m ewa_optax compare`: optimizers side by side on handwritten digits."""
