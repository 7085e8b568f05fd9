"""Two engines that run steps i to j of an epoch: a compiled loop, and a loop in Python that is fed batches."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._batches import Batches
from ewa_optax._loops import shuffler
from ewa_optax._train import Step


class Compiled:
    """A compiled loop over data on the device.

    Its bounds are arguments, so that every stretch of an epoch is run by one and the same program, to the same bits:
    XLA may compile a loop of another length to other roundings.
    """

    def __init__(self, step: Callable, batches: Batches, data: Any, key: jax.Array) -> None:
        self.step, self.batches, self.data, self.key = step, batches, jax.tree.map(jnp.asarray, data), key
        self.steps: int | None = batches.steps
        self.repeats = True
        self._shuffled: tuple[int, Any] = (-1, None)

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or after the first cost that is not finite, and the steps."""
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, shuffler(self.batches)(self.key, epoch))
        shuffle, parts = self._shuffled[1], []
        if start < self.batches.whole:
            whole = _advance(self.step, self.batches)
            end = min(stop, self.batches.whole)
            reached, carry, out = whole(carry, self.data, shuffle, np.int32(start), np.int32(end))
            end = int(reached)
            parts.append(jax.tree.map(lambda x: x[start:end], jax.device_get(out)))
            if not np.isfinite(parts[-1].cost[-1:]).all():
                return carry, parts[0]
        if stop > self.batches.whole:
            carry, out = _last(self.step, self.batches)(carry, self.data, shuffle)
            parts.append(jax.tree.map(lambda x: x[None], jax.device_get(out)))
        return carry, concatenate(parts)


class Fed:
    """A loop in Python over batches that come from somewhere, run in the memory of a copy of the carry."""

    def __init__(
        self, step: Callable, feed: Callable[[int, int], Iterator[Any]], steps: int | None, *, repeats: bool = True
    ) -> None:
        self.step, self.feed, self.steps, self.repeats = step, feed, steps, repeats
        self._at: tuple[int, int] = (-1, -1)
        self._batches: Iterator[Any] = iter(())

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or as many as there are batches, and the steps."""
        if self._at != (epoch, start):
            self._batches = iter(self.feed(epoch, start))
        carry, outs, in_place = jax.tree.map(jnp.array, carry), [], _in_place(self.step)
        for batch, others in itertools.islice(self._batches, stop - start):
            carry, out = in_place(carry, batch, **others)
            outs.append(out)
        self._at = (epoch, start + len(outs))
        return carry, concatenate([jax.tree.map(lambda x: np.asarray(x)[None], out) for out in jax.device_get(outs)])


def concatenate(parts: list[Step]) -> Step:
    """Steps end to end; without any, no costs."""
    if not parts:
        return Step(np.zeros(0, np.float32), None, np.zeros(0, np.float32), None)
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


@functools.lru_cache(maxsize=32)
def _in_place(step):
    return jax.jit(step, donate_argnums=0)


@functools.lru_cache(maxsize=32)
def _last(step, batches):
    def last(carry, data, shuffle):
        batch, others = batches.gathered(data, shuffle, batches.whole, 1, batches.rest)
        return _on(step, carry, batch, others, 0)

    return jax.jit(last)


@functools.lru_cache(maxsize=32)
def chunk_and_step(step: Callable, batches: Batches) -> tuple[Callable, Callable]:
    """What gathers some mini-batches, and a step on one of them: compiled, but traced only once wherever called."""

    def gather(data, shuffle, first):
        return batches.gathered(data, shuffle, first, batches.together(data), batches.batch_size)

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
            first, count = state[0], batches.together(data)
            gathered = gather(data, shuffle, first)

            def body(state):
                t, _, carry, outs = state
                carry, out = on(carry, *gathered, t - first)
                outs = jax.tree.map(lambda all_outs, x: all_outs.at[t].set(x), outs, out)
                return t + 1, jnp.isfinite(out.cost), carry, outs

            return jax.lax.while_loop(lambda state: proceed(state) & (state[0] < first + count), body, state)

        _, out = jax.eval_shape(on, carry, *jax.eval_shape(gather, data, shuffle, start), start)
        outs = jax.tree.map(lambda x: jnp.zeros((batches.whole, *x.shape), x.dtype), out)
        t, _, carry, outs = jax.lax.while_loop(proceed, chunk, (start, jnp.array(True), carry, outs))
        return t, carry, outs

    return jax.jit(advance)
