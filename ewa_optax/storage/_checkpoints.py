"""What storages keep as it stands in checkpoints, and as it stood in those that there are."""

from typing import Any

import jax

from ewa_optax.storage._encoding import Encoded
from ewa_optax.storage._formats import Factors
from ewa_optax.storage._kept import says_nothing_of


def without_fillers(state: Any) -> Any:
    """A state in which there is None where an `Encoded` says that there is nothing, as there was in 0.1.0."""

    def emptied(node):
        if not _is_encoded(node):
            return node
        first, *others = node.arrays
        empty = [
            jax.tree.map(lambda x, other: None if says_nothing_of(x, other) else other, first, tree) for tree in others
        ]
        return Encoded((first, *empty))

    return jax.tree.map(emptied, state, is_leaf=_is_encoded)


def with_fillers(like: Any, state: Any) -> Any:
    """The inverse, for a state that is to be like another one."""

    def filled(like, node):
        if not _is_encoded(like):
            return node
        first, *others = like.arrays
        full = [
            jax.tree.map(lambda x, old, new: old if says_nothing_of(x, old) else new, first, *trees)
            for trees in zip(others, node.arrays[1:], strict=True)
        ]
        return Encoded((node.arrays[0], *full))

    return jax.tree.map(filled, like, state, is_leaf=_is_encoded)


def without_means(state: Any) -> Any:
    """A state without fillers, as it was before `Factored` kept the mean of all beside those of rows and columns."""
    return jax.tree.map(lambda x: Encoded(x.arrays[:2]) if _has_means(x) else x, state, is_leaf=_is_encoded)


def with_means(like: Any, state: Any) -> Any:
    """The inverse, for a state that is to be like another one; one that has its means stays as it is."""

    def completed(like, node):
        if not _has_means(like) or len(node.arrays) == len(like.arrays):
            return node
        rows, columns = node.arrays
        means = jax.tree.map(
            lambda old, *pair: None if old is None else Factors.of(*pair).mean,
            like.arrays[2], rows, columns, is_leaf=_is_none,
        )  # fmt: skip
        return Encoded((rows, columns, means))

    return jax.tree.map(completed, like, state, is_leaf=_is_encoded)


def _has_means(x):
    three = _is_encoded(x) and len(x.arrays) == 3
    return three and all(jax.tree.leaves(jax.tree.map(_fit, *x.arrays, is_leaf=_is_none)))


def _fit(rows, columns, mean):
    """Whether these may be what `Factored` keeps of one leaf, or the first of them all of it."""
    return (columns is mean is None) or (
        mean is not None and rows.ndim > 0 and rows.shape[:-1] == columns.shape[:-1] == mean.shape
    )


def _is_none(x):
    return x is None


def _is_encoded(x):
    return isinstance(x, Encoded)
