"""How the examples of an epoch are split into mini-batches, and how one of them is gathered."""

import dataclasses
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ewa_optax._checks import check_choice, check_integer
from ewa_optax.minibatch._order import KINDS, default_kind, epoch_keys, order

REMAINDERS = ("keep", "drop", "mask")
CHUNK_BYTES = 2**20
"""Mini-batches are gathered together up to so many bytes, about what a cache holds."""


@dataclasses.dataclass(frozen=True)
class Batches:
    """The plan of an epoch; static, so that it can key a compilation.

    Examples lie in `shards` equal parts, one after the other; each part has an order of its own, and each batch takes
    an equal share of every part. Rows are indices within the parts, of shape (shards, examples of a part).
    """

    num_examples: int
    batch_size: int
    remainder: str
    kind: str
    shards: int
    shardings: tuple[NamedSharding | None, ...]
    """Of a batch, leaf by leaf; None leaves it to the compiler."""
    has_key: bool = False
    """Whether each step gets a key of its own."""

    @property
    def full_steps(self) -> int:
        """The number of steps on `batch_size` examples, padding included."""
        size, rest = divmod(self.num_examples, self.batch_size)
        return size + (self.remainder == "mask" and rest > 0)

    @property
    def last_size(self) -> int:
        """The size of a smaller last batch, 0 if there is none."""
        return self.num_examples % self.batch_size if self.remainder == "keep" else 0

    @property
    def steps(self) -> int:
        """All steps of an epoch."""
        return self.full_steps + (self.last_size > 0)

    def size_of(self, step: int) -> int:
        """How many examples a step has."""
        return self.batch_size if step < self.full_steps else self.last_size

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the mini-batches, for the record."""
        names = ("num_examples", "batch_size", "remainder", "shards")
        return {"order": self.kind, **{name: getattr(self, name) for name in names}}

    def shuffle(self, key: jax.Array, epoch: Any) -> tuple[Any, jax.Array]:
        """What is random in an epoch: the orders of the parts, stacked along a first axis, and a key for the steps."""
        size, (_, step_key) = self.num_examples // self.shards, epoch_keys(key, epoch)
        if self.shards == 1:
            return jax.tree.map(lambda x: x[None], order(size, key=key, epoch=epoch, kind=self.kind)), step_key

        def of_part(s):
            return order(size, key=jax.random.fold_in(key, s), epoch=epoch, kind=self.kind)

        # Not jax.vmap, under which some kinds of keys draw other numbers.
        return jax.lax.map(of_part, jnp.arange(self.shards)), step_key

    def gather_at_once(self, data: Any) -> int:
        """How many mini-batches are best gathered at once: small ones many, to spare the loop its overhead."""
        bytes_of_one = sum(x.dtype.itemsize * x.size // self.num_examples for x in jax.tree.leaves(data))
        return max(1, min(self.full_steps, CHUNK_BYTES // max(1, bytes_of_one * self.batch_size)))

    def rows(
        self, shuffle: tuple[Any, jax.Array], first: Any, count: int, size: int
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The rows of `count` steps from `first` on, of `size` examples each, of shape (shards, count, their share).

        And what else each step is called with: a mask of the padded, a key.
        """
        orders, step_key = shuffle
        part, share = self.num_examples // self.shards, size // self.shards
        steps = first + jnp.arange(count, dtype=jnp.int32)
        positions = steps[:, None] * (self.batch_size // self.shards) + jnp.arange(share, dtype=jnp.int32)[None]
        rows = jax.vmap(lambda order: order[jnp.minimum(positions, part - 1)])(orders)
        others = {}
        if self.has_key:
            others["key"] = jax.lax.map(lambda t: jax.random.fold_in(step_key, t), steps)  # Nor here jax.vmap.
        if self.remainder == "mask":
            others["mask"] = jnp.tile((positions < part).astype(jnp.float32), (1, self.shards))
        return rows, others

    def gathered(
        self, data: Any, shuffle: tuple[Any, jax.Array], first: Any, count: int, size: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """As many mini-batches, stacked, and what else the steps are called with."""
        rows, others = self.rows(shuffle, first, count, size)
        return self.take(data, rows), others

    def take(self, data: Any, rows: jax.Array) -> Any:
        """Mini-batches by their rows in each part, of shape (shards, mini-batches, rows); stacked."""
        leaves, structure = jax.tree.flatten(data)
        leaves = [self._take(x, rows, sharding) for x, sharding in zip(leaves, self.shardings, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    def _take(self, x: jax.Array, rows: jax.Array, sharding: NamedSharding | None) -> jax.Array:
        def pick(x, rows):
            parts = x.reshape(self.shards, self.num_examples // self.shards, *x.shape[1:])
            picked = jax.vmap(lambda part, rows: part.at[rows].get(mode="promise_in_bounds"))(parts, rows)
            return jnp.moveaxis(picked, 0, 1).reshape(rows.shape[1], rows.shape[0] * rows.shape[2], *x.shape[1:])

        if sharding is None:
            return pick(x, rows)
        whole = rows.shape[0] * rows.shape[2] == self.batch_size
        spec = PartitionSpec(None, sharding.spec[0] if whole else None, *sharding.spec[1:])
        sharding = NamedSharding(sharding.mesh, spec)
        if AxisType.Explicit in sharding.mesh.axis_types:
            return jax.sharding.auto_axes(out_sharding=sharding)(pick)(x, rows)
        return jax.lax.with_sharding_constraint(pick(x, rows), sharding)


def plan_batches(
    data: Any, batch_size: Any, remainder: Any = "keep", order: Any = None, shards: Any = 1, *, has_key: bool = False
) -> Batches:
    """The plan for `data`, after a check of all of it."""
    n = count_examples(data)
    whole, shapes = f"{n} makes the whole data one batch", [x.shape for x in jax.tree.leaves(data)]
    if all(len(shape) > 1 and shape[-1] == shapes[0][-1] > n for shape in shapes):
        whole += f", and if the {shapes[0][-1]} along the last axes are the examples, transpose, by X.T"
    size = check_integer("batch_size", batch_size, 1, n, whole)
    check_choice("remainder", remainder, REMAINDERS)
    check_choice("order", order, (None, *KINDS))
    shards = check_integer("shards", shards, 1, n, "1 shuffles all examples together")
    if n % shards or size % shards:
        raise ValueError(
            f"shards must divide the number of examples, {n}, and batch_size, {size}, got {shards}; "
            "leave some examples out, or shuffle all of them together with shards=1."
        )
    shardings = tuple(_sharding(x, size) for x in jax.tree.leaves(data))
    return Batches(n, size, remainder, order or default_kind(n // shards), shards, shardings, has_key)


def some_examples(data: Any, rows: np.ndarray) -> Any:
    """Those examples, on the host; none of what is spread over several processes."""
    if any(isinstance(x, jax.Array) and not x.is_fully_addressable for x in jax.tree.leaves(data)):
        return None
    if all(isinstance(x, np.ndarray) for x in jax.tree.leaves(data)):
        return jax.tree.map(lambda x: x[rows], data)
    batches = plan_batches(data, len(rows))
    return jax.tree.map(lambda x: np.asarray(x)[0], jax.jit(batches.take)(data, jnp.asarray(rows)[None, None]))


def count_examples(data: Any, name: str = "data") -> int:
    """The length of the first axis of all leaves."""
    lengths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        label = name + jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.Array | np.ndarray) or leaf.dtype == object:
            kind = "one of objects" if isinstance(leaf, np.ndarray) else type(leaf).__name__
            remedy = "call it" if callable(leaf) else "convert it by np.asarray, examples first"
            raise TypeError(f"{label} must be an array of numbers, got {kind}; {remedy}.")
        if not leaf.shape:
            raise ValueError(f"{label} is a scalar, but every leaf needs a first axis of examples; give it one.")
        check_range(label, leaf)
        lengths[label] = leaf.shape[0]
    if not lengths or not all(lengths.values()):
        raise ValueError(
            f"{name} holds no examples; pass a pytree of arrays whose first axis is one example or longer."
        )
    if len(set(lengths.values())) > 1:
        _check_not_transposed(data, name)
        listed = ", ".join(f"{name}: {length}" for name, length in [*lengths.items()][:4])
        listed += f" and {len(lengths) - 4} more" * (len(lengths) > 4)
        raise ValueError(
            f"the leaves of {name} differ in length ({listed}); cut them to one number of examples (batches go into "
            "fit by an iterable that is no list or tuple, since those are pytrees)."
        )
    return check_integer("the number of examples", next(iter(lengths.values())), 1, remedy="split larger data in parts")


def _check_not_transposed(data, name):
    """Raises ValueError where examples seem to lie along the last axes, as in books."""
    shapes = [x.shape for x in jax.tree.leaves(data)]
    along = set.intersection(*({shape[0], shape[-1]} for shape in shapes))
    if along and max(along) > max((shape[0] for shape in shapes if len(shape) > 1), default=max(along)):
        raise ValueError(
            f"{name} has leaves of shapes {', '.join(map(str, shapes[:4]))}: its {max(along)} examples must lie along "
            "the first axes; transpose those where they lie along the last, by X.T."
        )


def check_range(label: str, x: Any) -> None:
    """Raises ValueError for integers on the host that JAX would wrap around; those in files are looked at when read."""
    kind = jax.dtypes.canonicalize_dtype(x.dtype)
    if kind == x.dtype or x.dtype.kind not in "iu" or isinstance(x, np.memmap) or not x.size:
        return
    least, most = x.min(), x.max()
    if not (np.iinfo(kind).min <= least and most <= np.iinfo(kind).max):
        far = most if most > np.iinfo(kind).max else least
        raise ValueError(
            f"{label} must be of numbers that {kind} holds, got {far}; subtract what they have in common, make them "
            "floats by x.astype(np.float32), or allow 64 bits by jax.config.update('jax_enable_x64', True)."
        )


def _sharding(x: Any, batch_size: int) -> NamedSharding | None:
    """A batch lies as the data does, where its size allows."""
    sharding = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.empty or not sharding.spec:
        return None
    if AxisType.Explicit not in sharding.mesh.axis_types and isinstance(x, jax.core.Tracer):
        return None
    spec = PartitionSpec(*sharding.spec)
    try:
        NamedSharding(sharding.mesh, spec).shard_shape((batch_size, *x.shape[1:]))
    except ValueError:
        spec = PartitionSpec(None, *sharding.spec[1:])
    return NamedSharding(sharding.mesh, spec)
