"""The order of the examples in an epoch, as a function of a key: stored, or computed where it is needed."""

import dataclasses
import functools
import math
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import check_choice, check_integer, check_key

KINDS = ("permutation", "bijection")


BIJECTION_FROM = 512
"""From where a sort costs more than a tenth of an epoch of a small network (`benchmarks.shuffle`)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Permutation:
    """An order that is stored, 4 bytes an example."""

    indices: jax.Array

    def __len__(self) -> int:
        return self.indices.shape[0]

    def __getitem__(self, positions: Any) -> jax.Array:
        return self.indices[_checked(positions, len(self))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.indices, dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bijection:
    """An order that is computed, position by position, from one 32-bit key a round."""

    keys: jax.Array
    num_examples: int = dataclasses.field(metadata=dict(static=True))

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, positions: Any) -> jax.Array:
        return _indices(jnp.asarray(_checked(positions, len(self))), self.keys, len(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def order(
    num_examples: int, *, key: jax.Array, epoch: int | jax.Array = 0, kind: str | None = None
) -> Permutation | Bijection:
    r"""The shuffled order of an epoch: `order(n, key=key, epoch=e)[t]` is the example at position $t$.

    Both kinds take each example exactly once, and depend on nothing but the key, the epoch, the kind and $n$. What
    they promise of chance:

    - `"permutation"` is `jax.random.permutation`: every one of the $n!$ orders is equally likely (as far as a key of
      64 bits can tell). It sorts, and stores the order in $4n$ bytes.
    - `"bijection"` is a keyed bijection on $\{0, \dots, n-1\}$ that is evaluated position by position: no sort, no
      array, random access. It is pseudorandom, of 6 rounds and 32 bits of key each (more rounds for $n < 2^{15}$),
      and not for secrets. In position against index, differences between neighbours near and far, means of batches,
      fixed points, cycles and, for $n = 5$, all orders, 10 000 keys show no difference from a permutation.

    The bijection is a Feistel network on the grid $\mathbb Z_a \times \mathbb Z_b$ with $a$ the smallest even number
    from $\sqrt n$ on and $b = \lceil n/a \rceil$: rounds
    $l \leftarrow l + F_k(r) \bmod a$ and $r \leftarrow r + F_k(l) \bmod b$ in turn, with a 32-bit hash $F_k$,
    repeated for the fewer than $a$ cells beyond $n$ until they land on an example. With $a$ and $b$ both odd, all
    orders would be even permutations.

    Args:
        num_examples: $n$, from 1 to $2^{31} - 1$.
        key: a `jax.random` key.
        epoch: which epoch, 0 or more; may be a traced integer.
        kind: `"permutation"` or `"bijection"`. None is the bijection from 512 examples on, from where a sort costs
            more than a tenth of the epoch of a small network, and the permutation below.

    Returns:
        An order: `order[positions]` are int32 indices of the shape of `positions`, integers from 0 to $n - 1$ or a
        slice; `len(order)` is $n$. It is a pytree, so it goes through `jax.jit`, `jax.vmap` and `jax.lax.scan`.

    Raises:
        ValueError: `num_examples` outside 1 to $2^{31} - 1$, an unknown `kind`, a negative `epoch`, several keys.
        TypeError: `num_examples` or `epoch` is no integer, or `key` no key.
        IndexError: (of the order) a position outside 0 to $n - 1$, unless it is traced.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ewa_optax import minibatch
        >>> order = minibatch.order(5_000_000, key=jax.random.key(0), epoch=3)
        >>> indices = order[jnp.arange(4_000_000, 4_001_000)]  # Mini-batch 4000 of 1000 examples.
        >>> print(indices.shape, len(set(indices.tolist())))
        (1000,) 1000

    Reference:
        Black and Rogaway, "Ciphers with arbitrary finite domains", 2002 (cycle walking); Mitchell et al.,
        "Bandwidth-optimal random shuffling for GPUs", 2021.
    """
    n = check_integer("num_examples", num_examples, 1, remedy="split larger data in parts")
    check_key(key)
    check_epoch(epoch)
    check_choice("kind", kind, (None, *KINDS))
    order_key, _ = epoch_keys(key, epoch)
    if (kind or default_kind(n)) == "permutation":
        return Permutation(jax.random.permutation(order_key, n))
    return Bijection(jax.random.bits(order_key, (_rounds(n),), jnp.uint32), n)


def default_kind(n: int) -> str:
    """The kind of order that suits so many examples."""
    return "bijection" if n >= BIJECTION_FROM else "permutation"


def check_epoch(epoch: Any) -> None:
    """Raises unless `epoch` is an integer from 0 on, or a scalar array of integers."""
    if not (isinstance(epoch, jax.Array) and jnp.issubdtype(epoch.dtype, jnp.integer) and epoch.shape == ()):
        check_integer("epoch", epoch, 0, remedy="count epochs from 0")


def epoch_keys(key: jax.Array, epoch: Any) -> tuple[jax.Array, jax.Array]:
    """The keys of one epoch: of its order, and of whatever else is random in it."""
    order_key, other_key = jax.random.split(jax.random.fold_in(key, epoch))
    return order_key, other_key


def _rounds(n: int) -> int:
    """6 from 2**15 on; below, as many as keep the keys' bits times those of a position about the same."""
    return max(6, 2 * math.ceil(48 / max(3, n.bit_length())))


def _grid(n: int) -> tuple[int, int]:
    a = math.isqrt(n - 1) + 1
    a += a % 2
    return a, -(-n // a)


@functools.partial(jax.jit, static_argnums=2, inline=True)  # So that it compiles once outside of jax.jit too.
def _indices(positions, keys, n):
    return _bijection(positions.astype(jnp.uint32), keys, *map(np.uint32, (n, *_grid(n)))).astype(jnp.int32)


def _bijection(cells: Any, keys: jax.Array, n: Any, a: Any, b: Any) -> jax.Array:
    """Cycle walking: the grid has a few cells more than there are examples, and who lands on one goes on."""

    def shuffled(cells):
        left, right = cells // b, cells % b
        for i in range(0, keys.shape[0], 2):
            left = _add(left, _hash(right, keys[i]), a)
            right = _add(right, _hash(left, keys[i + 1]), b)
        return left * b + right

    return jax.lax.while_loop(
        lambda cells: jnp.any(cells >= n),
        lambda cells: jnp.where(cells >= n, shuffled(cells), cells),
        shuffled(cells),
    )


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    x = (x ^ key) * np.uint32(0x9E3779B1)
    x = (x ^ (x >> 15)) * np.uint32(0x85EBCA77)
    return x ^ (x >> 13)


def _add(x: jax.Array, bits: jax.Array, size: Any) -> jax.Array:
    """`x` plus bits * size / 2**32, modulo `size`; the product needs 48 bits, so it is formed in two halves."""
    x = x + (((bits >> 16) * size + (((bits & np.uint32(0xFFFF)) * size) >> 16)) >> 16)
    return jnp.where(x >= size, x - size, x)


def _checked(positions: Any, n: int) -> Any:
    if isinstance(positions, slice):
        return np.arange(*positions.indices(n))
    if not isinstance(positions, jax.core.Tracer):
        positions = np.asarray(positions)
        positions = positions if positions.size else positions.astype(int)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(f"positions must be integers from 0 to {n - 1}, got {positions.dtype}; count in them.")
    if isinstance(positions, np.ndarray):
        values = positions
        if values.size and not (values.min() >= 0 and values.max() < n):
            raise IndexError(
                f"positions must be from 0 to {n - 1}, got {values.min()} to {values.max()}; take them % n."
            )
    return positions
