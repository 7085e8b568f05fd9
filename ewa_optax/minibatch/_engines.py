"""Two engines that run steps i to j of an epoch: a compiled loop, and a loop in Python that is fed batches."""

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._checks import check_choice
from ewa_optax.minibatch._arrays import Arrays, DeviceArrays, shuffler
from ewa_optax.minibatch._batches import Batches
from ewa_optax.minibatch._loops import choose_loop, in_place
from ewa_optax.minibatch._sources import Source
from ewa_optax.minibatch._step import Step, concatenate

KEPT_BYTES = 2**28
"""How many bytes of batches a stretch may keep."""


class Engine(abc.ABC):
    """What runs steps."""

    steps: int | None
    """Of an epoch; None is not known before one is over."""
    aux: Any
    """Shapes and dtypes of the auxiliary output of a step, or None where they are not known yet."""
    ended = False
    """Whether the epoch has no step after the last one that was run, where `steps` is None."""

    @abc.abstractmethod
    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop` of an epoch, and those steps; perhaps of fewer steps."""


class CompiledLoop(Engine):
    """A compiled loop over data on the device.

    Its bounds are arguments, so that every stretch of an epoch is run by one and the same program, to the same bits:
    XLA may compile a loop of another length to other roundings.
    """

    def __init__(self, step: Callable, source: DeviceArrays, key: jax.Array, aux: Any) -> None:
        self.step, self.batches, self.data, self.key = step, source.batches, source.data, key
        self.steps, self.aux = source.steps, aux
        self._shuffled: tuple[int, Any] = (-1, None)

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or after the first cost that is not finite, and the steps."""
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, shuffler(self.batches)(self.key, epoch))
        shuffle, parts = self._shuffled[1], []
        if start < self.batches.full_steps:
            whole = _advance(self.step, self.batches)
            end = min(stop, self.batches.full_steps)
            reached, carry, out = whole(carry, self.data, shuffle, np.int32(start), np.int32(end))
            end = int(reached)
            parts.append(jax.tree.map(lambda x: x[start:end], jax.device_get(out)))
            if not np.isfinite(parts[-1].cost[-1:]).all():
                return carry, parts[0]
        if stop > self.batches.full_steps:
            if not parts:
                carry = jax.tree.map(jnp.array, carry)  # Whose memory is overwritten, so not that of the caller.
            carry, out = _last(self.step, self.batches)(carry, self.data, shuffle)
            parts.append(jax.tree.map(lambda x: x[None], jax.device_get(out)))
        return carry, concatenate(parts)


class PythonLoop(Engine):
    """A loop in Python over batches that come from anywhere, run in the memory of a copy of the carry.

    The device computes while the next batch is fetched. Batches of a stretch are kept until the next one, so that it
    can be run again, and end it where they get large.
    """

    def __init__(self, step: Callable, source: Source, key: jax.Array, aux: Any) -> None:
        self.step, self.source, self.key, self.steps, self.aux = step, source, key, source.steps, aux
        self._kept: list[Any] = []
        self._kept_from, self._at = (-1, -1), (-1, -1)
        self._batches: Iterator[Any] = iter(())
        self._ahead: Any = None

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or as many as there are batches or memory for, and the steps."""
        carry, outs, run = jax.tree.map(jnp.array, carry), [], in_place(self.step)
        again = (epoch, start) == self._kept_from
        for batch, others in self._kept[: stop - start] if again else self._fetched(epoch, start, stop - start):
            carry, out = run(carry, batch, **others)
            outs.append(out)
        if not again:
            self._at = (epoch, start + len(outs))
        return carry, concatenate([jax.tree.map(lambda x: np.asarray(x)[None], out) for out in jax.device_get(outs)])

    def _fetched(self, epoch, start, count):
        if (epoch, start) != self._at:
            self._batches = self.source.feed(self.key, epoch, start)
            self._ahead = next(self._batches, None)
        self._kept, self._kept_from, size = [], (epoch, start), 0
        for _ in range(count):
            if self._ahead is None or size >= KEPT_BYTES:
                break
            self._kept.append(self._ahead)
            size += sum(x.nbytes for x in jax.tree.leaves(self._ahead[0]))
            yield self._ahead  # A step on it is begun, and while it computes:
            self._ahead = next(self._batches, None)
        self.ended = self._ahead is None


@functools.lru_cache(maxsize=32)
def _last(step, batches):
    def last(carry, data, shuffle):
        batch, others = batches.gathered(data, shuffle, batches.full_steps, 1, batches.last_size)
        return _on(step, carry, batch, others, 0)

    return jax.jit(last, donate_argnums=0)


@functools.lru_cache(maxsize=32)
def chunk_and_step(step: Callable, batches: Batches) -> tuple[Callable, Callable]:
    """What gathers some mini-batches, and a step on one of them: compiled, but traced only once wherever called."""

    def gather(data, shuffle, first):
        return batches.gathered(data, shuffle, first, batches.gather_at_once(data), batches.batch_size)

    return jax.jit(gather), jax.jit(functools.partial(_on, step))


def _on(step, carry, batches, others, i):
    batch, others = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), (batches, others))
    return step(carry, batch, **others)


@functools.lru_cache(maxsize=32)
def _advance(step, batches):
    gather, on = chunk_and_step(step, batches)

    def advance(carry, data, shuffle, start, stop):
        def proceed(state):
            t, finite, _, _ = state
            return (t < stop) & finite

        def chunk(state):
            first, count = state[0], batches.gather_at_once(data)
            gathered = gather(data, shuffle, first)

            def body(state):
                t, _, carry, outs = state
                carry, out = on(carry, *gathered, t - first)
                outs = jax.tree.map(lambda all_outs, x: all_outs.at[t].set(x), outs, out)
                return t + 1, jnp.isfinite(out.cost), carry, outs

            return jax.lax.while_loop(lambda state: proceed(state) & (state[0] < first + count), body, state)

        _, out = jax.eval_shape(on, carry, *jax.eval_shape(gather, data, shuffle, start), start)
        outs = jax.tree.map(lambda x: jnp.zeros((batches.full_steps, *x.shape), x.dtype), out)
        t, _, carry, outs = jax.lax.while_loop(proceed, chunk, (start, jnp.array(True), carry, outs))
        return t, carry, outs

    return jax.jit(advance)


def engine_for(step: Callable, carry: Any, source: Source, key: jax.Array, loop: str = "auto") -> Engine:
    """The compiled loop, or one in Python for data that lies elsewhere and for steps that it is faster for."""
    if not isinstance(source, DeviceArrays):
        check_choice("loop, of data that is not on the device,", loop, ("auto", "python"))
    if not isinstance(source, Arrays):
        return PythonLoop(step, source, key, None)
    gather, on = chunk_and_step(step, source.batches)
    chunk = jax.eval_shape(gather, source.data, jax.eval_shape(source.batches.shuffle, key, 0), np.int32(0))
    _, out = jax.eval_shape(on, carry, *chunk, np.int32(0))
    if isinstance(source, DeviceArrays) and choose_loop(loop, on, carry, *chunk, np.int32(0)) == "scan":
        return CompiledLoop(step, source, key, out.aux)
    return PythonLoop(step, source, key, out.aux)
