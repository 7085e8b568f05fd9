"""The average of a series that is divided among devices: each averages its own part, and only ends are exchanged.

Twice: once as if nothing came before, to tell the others how its part ends, and again from what they told. Without
correction of the bias the parts of a series do not come apart in this way, so there it is gathered first.
"""

import functools
from typing import Any, NamedTuple

import jax.core
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ewa_optax.series._arguments import Part, in_three_axes, without
from ewa_optax.series._methods import running
from ewa_optax.series._plan import Fading, Gaps, Plan, in_time_order


class Layout(NamedTuple):
    """A mesh of devices, and by which of its axes each axis of an array is divided."""

    mesh: Any
    spec: PartitionSpec


def layout_of(x: jax.Array) -> Layout | None:
    """How an array is divided, if it is, as far as its type tells under `jax.jit`, and else the array itself."""
    sharding = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else x.sharding
    if not isinstance(sharding, NamedSharding) or all(names is None for names in sharding.spec):
        return None
    return Layout(sharding.mesh, PartitionSpec(*sharding.spec, *[None] * (x.ndim - len(sharding.spec))))


def over_devices(part: Part, axis: int, plan: Plan, layout: Layout | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The averages, laid out as the series is, and average and weight at its end."""
    names = layout.spec[axis] if layout and plan.debias else None
    local = functools.partial(_local, axis=axis, plan=plan, names=names)
    if layout is None:
        return local(part)
    whole, specs = specs_of(part, axis, layout, names)
    return on_each(local, layout, (specs,), (whole, specs.average, specs.average))(part)


def specs_of(part: Part, axis: int, layout: Layout, names: Any) -> tuple[PartitionSpec, Part]:
    """How a series is divided, and each array of a part of it, if its axis of time is divided by `names`."""
    spec = [names if i == axis else each for i, each in enumerate(layout.spec)]
    whole, ends = PartitionSpec(*spec), PartitionSpec(*without(tuple(spec), axis))
    observed = None if part.observed is None else whole
    passed = None if part.passed is None else PartitionSpec(names)
    fading = Fading._make((PartitionSpec(), PartitionSpec()))
    waiting = None if part.waiting is None else ends
    return whole, Part._make((whole, ends, ends, observed, passed, waiting, fading))


def on_each(function: Any, layout: Layout, in_specs: Any, out_specs: Any) -> Any:
    """`function` of what each device has; arguments are divided as it is said."""
    mapped = jax.shard_map(function, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def lay_out(spec, x):
        explicit = PartitionSpec(*(_explicit(names, layout.mesh) for names in spec))
        return jax.sharding.reshard(x, NamedSharding(layout.mesh, explicit))

    def call(*arguments):
        if AxisType.Explicit in layout.mesh.axis_types:
            arguments = jax.tree.map(lay_out, in_specs, arguments)
        return mapped(*arguments)

    return call


def _explicit(names, mesh):
    """Of the names of axes of a mesh those that an array can be told to be divided by."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    found = [name for name in (names if isinstance(names, tuple) else (names,)) if types.get(name) == AxisType.Explicit]
    return tuple(found) or None


def _local(part, axis, plan, names):
    x, average, weight, gaps = in_three_axes(part, axis, plan)
    if names is None:
        y, average, weight = running(x, average, weight, part.fading, gaps, plan, x.dtype)
    else:
        average, weight, waiting, last = _before(x, average, weight, part.fading, gaps, plan, names)
        gaps = gaps._replace(waiting=waiting)
        y = running(x, average, weight, part.fading, gaps, plan, x.dtype)[0]
        average, weight = last
    ends = without(part.x.shape, axis)
    return y.reshape(part.x.shape), average.reshape(ends), weight.reshape(ends)


def _before(x: Any, average: Any, weight: Any, fading: Fading, gaps: Gaps, plan: Plan, names: Any) -> Any:
    """Average, weight, and what is waiting, before the part of this device; the first two at the end of the series."""
    _, own, gained = running(x, jnp.zeros_like(average), jnp.zeros_like(weight), fading, gaps, plan, average.dtype)
    own = jnp.where(gained > 0, own, 0)
    ends = jax.lax.all_gather((own, gained, *_kept(x, fading, gaps, plan)), names)

    def join(past, end):
        (average, weight, waiting), (own, gained, kept, first) = past, end
        kept = kept if waiting is None else jnp.where(waiting, first, kept)
        waiting = None if waiting is None else waiting & ~(gained > 0)
        begun, total = (weight > 0) | (gained > 0), kept * weight + gained
        total = jnp.where(begun, jnp.maximum(total, jnp.finfo(total.dtype).tiny), 0)
        average = average + jnp.where(gained > 0, gained / jnp.where(gained > 0, total, 1), 0) * (own - average)
        return (average, total, waiting), past

    start = jnp.where(weight > 0, average, 0), weight, gaps.waiting
    last, befores = jax.lax.scan(join, start, ends, reverse=plan.reverse)
    here = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, jax.lax.axis_index(names), 0, False), befores)
    return *here, last[:2]


def _kept(x, fading, gaps, plan):
    """What is kept of the past behind the part of this device; and of a past that waits for a first value."""
    observed = in_time_order(~jnp.isnan(x) if gaps.observed is None else gaps.observed, plan)
    counted = observed if plan.skip else jnp.ones_like(observed)
    if gaps.passed is None:
        kept = fading.powers(counted.sum(1))
        return kept, kept
    passed = jnp.broadcast_to(gaps.passed[None, :, None], x.shape)
    begun = jax.lax.cumsum(observed.astype(int), 1) > 0
    before = jnp.concatenate([jnp.zeros_like(begun[:, :1]), begun[:, :-1]], 1)
    since_first = jnp.where(before, passed, 0).sum(1) + begun[:, -1]
    return fading.powers(passed.sum(1)), fading.powers(since_first)
