"""Mini-batches: the order of examples, epochs over them compiled whole, training as a pure function, batch sizes."""

from ewa_optax.minibatch._batch_size import BatchSizes, find_batch_size, suggest_batch_size
from ewa_optax.minibatch._epoch import epoch
from ewa_optax.minibatch._order import order
from ewa_optax.minibatch._train import Trained, train

__all__ = [
    "BatchSizes",
    "Trained",
    "epoch",
    "find_batch_size",
    "order",
    "suggest_batch_size",
    "train",
]
