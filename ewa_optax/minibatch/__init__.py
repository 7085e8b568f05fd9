"""Mini-batches: the order of examples, epochs over them compiled whole, training as a pure function, batch sizes."""

from ewa_optax.minibatch._batch_size import BatchSizes as BatchSizes
from ewa_optax.minibatch._batch_size import find_batch_size as find_batch_size
from ewa_optax.minibatch._batch_size import suggest_batch_size as suggest_batch_size
from ewa_optax.minibatch._epoch import epoch as epoch
from ewa_optax.minibatch._order import order as order
from ewa_optax.minibatch._train import Trained as Trained
from ewa_optax.minibatch._train import train as train

__all__ = ["BatchSizes", "Trained", "epoch", "find_batch_size", "order", "suggest_batch_size", "train"]
