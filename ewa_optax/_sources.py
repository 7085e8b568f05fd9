"""Where mini-batches come from: arrays on a device, files mapped into memory, or any iterable."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ewa_optax._batches import Batches, count_examples
from ewa_optax._checks import check_choice
from ewa_optax._engines import Compiled, Fed, chunk_and_step
from ewa_optax._loops import chosen, feed, is_mapped
from ewa_optax._order import epoch_keys


def is_stream(data: Any) -> bool:
    """Whether it is an iterable of batches, rather than a pytree of arrays."""
    if isinstance(data, Iterator):
        return True  # Which jax.tree warns of, as a leaf.
    # What has a shape is an array of some library, and meant as one.
    iterable = hasattr(data, "__iter__") and not hasattr(data, "shape")
    return iterable and jax.tree.structure(data) == jax.tree.structure(0)


def engine_for_arrays(
    step: Callable, carry: Any, batches: Batches, data: Any, key: jax.Array, loop: str
) -> Compiled | Fed:
    """The compiled loop, or one in Python for data in files and for steps that are slow in a compiled one."""
    mapped = is_mapped(data)
    if mapped:
        check_choice("loop, of memory-mapped data,", loop, ("auto", "python"))
    else:
        data = jax.tree.map(jnp.asarray, data)
    gather, on = chunk_and_step(step, batches)
    chunk = jax.eval_shape(gather, data, jax.eval_shape(batches.shuffle, key, 0), np.int32(0))
    _, out = jax.eval_shape(on, carry, *chunk, np.int32(0))
    if not mapped and chosen(loop, on, carry, *chunk, np.int32(0)) == "scan":
        return Compiled(step, batches, data, key, out.aux)
    return Fed(step, functools.partial(feed, batches, data, key), batches.steps, out.aux)


def engine_for_stream(step: Callable, stream: Any, key: jax.Array, has_key: bool) -> Fed:
    """A loop in Python over the batches of an iterable, which is begun anew for each epoch."""

    def batches(epoch: int, start: int) -> Iterator[tuple[Any, dict[str, jax.Array]]]:
        _, step_key = epoch_keys(key, epoch)
        for t, batch in enumerate(itertools.islice(iter(stream), start, None), start):
            others = {"key": jax.random.fold_in(step_key, t)} if has_key else {}
            yield jax.device_put(on_host(batch)), others

    return Fed(step, batches, None)


def on_host(batch: Any) -> Any:
    """The batch with arrays for leaves, whatever library they are of: copies, lest their memory is used again."""
    batch = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.array(x), batch)
    count_examples(batch, "a batch")
    return batch


def placed(tree: Any, batches: Batches | None) -> Any:
    """Strongly typed arrays on the mesh of the data, if there is one: those that lie elsewhere are replicated."""
    meshes = [sharding.mesh for sharding in (batches.shardings if batches else ()) if sharding]

    def place(x):
        x = jnp.asarray(x)
        x = jax.lax.convert_element_type(x, x.dtype)
        if not meshes or (isinstance(x.sharding, NamedSharding) and x.sharding.mesh == meshes[0]):
            return x
        return jax.device_put(x, NamedSharding(meshes[0], PartitionSpec()))

    return jax.tree.map(place, tree)
