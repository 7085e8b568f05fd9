"""Two engines that run steps i to j of an epoch: a compiled loop, and a loop in Python that is fed batches."""

import abc
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._checks import check_choice
from ewa_optax.minibatch._arrays import Arrays, DeviceArrays, shuffler
from ewa_optax.minibatch._batches import Batches
from ewa_optax.minibatch._loops import choose_loop, in_place
from ewa_optax.minibatch._sources import Source
from ewa_optax.minibatch._step import Step, check_stackable, concatenate, gradient_step, update_of

KEPT_BYTES = 2**28
"""How many bytes of batches a stretch may keep."""


CAPACITY, CAPACITY_BYTES = 4096, 2**18
"""Of how many steps a compiled loop tells at most, and in how many bytes, if an epoch has fewer."""


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

    def reach(self, start: int, epochs: int) -> float:
        """The last `stop` that may be given with a `start`, if so many epochs are left."""
        del start, epochs
        return math.inf if self.steps is None else self.steps


class CompiledLoop(Engine):
    """A compiled loop over data on the device, which goes on into the epochs that follow if nobody looks in between.

    Its bounds are arguments, so that every stretch of an epoch is run by one and the same program, to the same bits:
    XLA may compile a loop of another length to other roundings.
    """

    def __init__(
        self, step: Callable, numbers: Any, source: DeviceArrays, key: jax.Array, out: Step, across: bool
    ) -> None:
        self.numbers, self.data, self.key = numbers, source.data, key
        self.steps, self.aux = source.steps, out.aux
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(out))
        self._across, self._of_epoch = across, source.batches.steps
        # The same whether or not somebody looks in between, and so one program.
        self._capacity = max(self._of_epoch, min(CAPACITY, CAPACITY_BYTES // max(1, size)))
        self._shuffler, self._advance = shuffler(source.batches), _advance(step, source.batches, self._capacity)
        self._shuffled: tuple[int, Any] = (-1, None)

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or after the first that may not go on, and the steps."""
        at, shuffle = self._shuffled
        if at != epoch:
            shuffle = self._shuffler(self.key, epoch)
        bounds = np.int32(epoch), np.int32(start), np.int32(stop)
        told, shuffle, carry = self._advance(self.numbers, carry, self.data, self.key, shuffle, *bounds)
        done, reached, out = jax.device_get(told)
        self._shuffled = int(reached), shuffle
        return carry, jax.tree.map(lambda x: x[: int(done)], out)

    def reach(self, start: int, epochs: int) -> float:
        return min(start + self._capacity, epochs * self._of_epoch) if self._across else self._of_epoch


class PythonLoop(Engine):
    """A loop in Python over batches that come from anywhere, run in the memory of a copy of the carry.

    The device computes while the next batch is fetched. Batches of a stretch are kept until the next one, so that it
    can be run again, and end it where they get large.
    """

    def __init__(self, step: Callable, numbers: Any, source: Source, key: jax.Array, aux: Any) -> None:
        self.step, self.numbers, self.source, self.key, self.aux = in_place(step, 1), numbers, source, key, aux
        self.steps = source.steps
        self._kept: list[Any] = []
        self._kept_from, self._at = (-1, -1), (-1, -1)
        self._batches: Iterator[Any] = iter(())
        self._ahead: Any = None

    def run(self, carry: Any, epoch: int, start: int, stop: int) -> tuple[Any, Step]:
        """The carry after steps `start` to `stop`, or as many as there are batches or memory for, and the steps."""
        carry, outs = jax.tree.map(jnp.array, carry), []
        again = (epoch, start) == self._kept_from
        for batch, others in self._kept[: stop - start] if again else self._fetched(epoch, start, stop - start):
            carry, out = self.step(self.numbers, carry, batch, **others)
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
def chunk_and_step(step: Callable, batches: Batches) -> tuple[Callable, Callable]:
    """What gathers some mini-batches, and a step on one of them: compiled, but traced only once wherever called."""

    def gather(data, shuffle, first):
        return batches.gathered(data, shuffle, first, batches.gather_at_once(data), batches.batch_size)

    def on(numbers, carry, gathered, others, i):
        batch, others = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), (gathered, others))
        return step(numbers, carry, batch, **others)

    return jax.jit(gather), jax.jit(on)


@functools.lru_cache(maxsize=32)
def _advance(step, batches, capacity):
    """Steps `start` to `stop`, counted from the first one of an epoch and on into those that follow.

    What is told of at most `capacity` steps: how many were done, in which epoch the loop is, and their outs.
    """
    gather, on = chunk_and_step(step, batches)

    def advance(numbers, carry, data, key, shuffle, epoch, start, stop):
        count = batches.gather_at_once(data)

        def may_go_on(state):
            return (state["done"] < stop - start) & state["may_go_on"]

        def stepped(state, gathered, i):
            carry, out = on(numbers, state["carry"], *gathered, i)
            outs = jax.tree.map(lambda all_outs, x: all_outs.at[state["done"]].set(x), state["outs"], out)
            moved = {"t": state["t"] + 1, "done": state["done"] + 1, "may_go_on": out.may_go_on}
            return {**state, **moved, "carry": carry, "outs": outs}

        def chunk(state):
            first, gathered = state["t"], gather(data, state["shuffle"], state["t"])
            end = jnp.minimum(first + count, batches.full_steps)
            return jax.lax.while_loop(
                lambda state: may_go_on(state) & (state["t"] < end),
                lambda state: stepped(state, gathered, state["t"] - first),
                state,
            )

        def last(state):
            smaller = batches.gathered(data, state["shuffle"], batches.full_steps, 1, batches.last_size)
            check_stackable(out, jax.eval_shape(on, numbers, carry, *smaller, 0)[1])
            return stepped(state, smaller, 0)

        def next_epoch(state):
            epoch = state["epoch"] + 1
            return {**state, "epoch": epoch, "t": jnp.int32(0), "shuffle": batches.shuffle(key, epoch)}

        def of_epoch(state):
            state = jax.lax.while_loop(lambda state: may_go_on(state) & (state["t"] < batches.full_steps), chunk, state)
            if batches.last_size:
                state = jax.lax.cond(
                    may_go_on(state) & (state["t"] == batches.full_steps), last, lambda state: state, state
                )
            return jax.lax.cond(state["t"] == batches.steps, next_epoch, lambda state: state, state)

        _, out = jax.eval_shape(on, numbers, carry, *jax.eval_shape(gather, data, shuffle, start), start)
        state = {
            "t": start, "epoch": epoch, "done": jnp.int32(0), "may_go_on": jnp.array(True), "shuffle": shuffle,
            "carry": carry, "outs": jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), out),
        }  # fmt: skip
        state = jax.lax.while_loop(may_go_on, of_epoch, state)
        return (state["done"], state["epoch"], state["outs"]), state["shuffle"], state["carry"]

    return jax.jit(advance)


# One and the same function for equal arguments, so that nothing compiles twice.
_gradient_step = functools.lru_cache(maxsize=32)(gradient_step)


def engine_for(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    carry: Any,
    source: Source,
    key: jax.Array,
    loop: str = "auto",
    *,
    has_aux: bool,
    across: bool = False,
) -> Engine:
    """The compiled loop, or one in Python for data that lies elsewhere and for steps that it is faster for."""
    if not isinstance(source, DeviceArrays):
        check_choice("loop, of data that is not on the device,", loop, ("auto", "python"))
    update, numbers = update_of(optimizer, *carry)
    step = _gradient_step(loss, update, has_aux)
    if not isinstance(source, Arrays):
        return PythonLoop(step, numbers, source, key, None)
    gather, on = chunk_and_step(step, source.batches)
    chunk = jax.eval_shape(gather, source.data, jax.eval_shape(source.batches.shuffle, key, 0), np.int32(0))
    arguments = (numbers, carry, *chunk, np.int32(0))
    _, out = jax.eval_shape(on, *arguments)
    if isinstance(source, DeviceArrays) and choose_loop(loop, on, *arguments) == "scan":
        return CompiledLoop(step, numbers, source, key, out, across)
    return PythonLoop(step, numbers, source, key, out.aux)
