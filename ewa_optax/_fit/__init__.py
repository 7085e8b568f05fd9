"""`ewa_optax.fit`: epochs with progress, history, validation, callbacks and checkpoints."""
