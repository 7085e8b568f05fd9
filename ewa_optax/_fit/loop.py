"""The loop of `fit`: stretches of steps, and the look at them in between."""

import bisect
import math
import time
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ewa_optax._fit.result import Fitted, with_steps
from ewa_optax.minibatch._engines import Engine

STRETCH = 0.25
"""About how many seconds of steps run between two looks at progress, Ctrl-C and whether all is finite."""


def stretches(
    run: Fitted,
    engine: Engine,
    epochs: int,
    every: int | None,
    end_epoch: Callable[[Fitted, float], Fitted],
) -> Iterator[Fitted]:
    """The run after each stretch, and after each epoch; stretches end where an epoch or `every` steps do."""
    # Processes must agree on the length of a stretch, on which their clocks would not.
    several = jax.process_count() > 1
    length, epoch_began = 256 if several else 1, time.perf_counter()
    while run.stopped is None and run.epoch < epochs:
        began, start = time.perf_counter(), run.step
        stop = start + length
        if every:
            stop = min(stop, start + every - len(run.history.costs) % every)
        stop = int(min(stop, engine.reach(start, epochs - run.epoch)))
        run = _advanced(run, engine, start, stop)
        over = _epochs_over(run, engine)
        if over == 1:
            yield run  # So that an interrupt of what follows finds these steps.
        if over and not run.step:
            raise ValueError(
                f"data gave no batch in epoch {run.epoch}; pass an iterable that is not empty, and begins anew for "
                "each epoch."
            )
        if over:
            now, steps = time.perf_counter(), engine.steps or run.step
            for _ in range(over):
                ended = end_epoch(run._replace(step=steps), (now - epoch_began) / over)
                run = ended._replace(step=run.step - steps)
            epoch_began = now
        seconds = time.perf_counter() - began
        if not several:
            length = 2 * length if seconds < STRETCH / 2 else max(1, length // 2) if seconds > 2 * STRETCH else length
        yield run


def _epochs_over(run, engine):
    """How many epochs have had all of their steps by now."""
    if engine.steps is None:
        return int(engine.ended and run.stopped is None)
    return run.step // engine.steps


def _advanced(run: Fitted, engine: Engine, start: int, stop: int) -> Fitted:
    if start == stop:
        return run  # Interrupted before the epoch was closed, and resumed.
    before = (run.params, run.opt_state)
    carry, steps = engine.run(before, run.epoch, start, stop)
    finite = steps.may_go_on
    done = len(finite)
    if not (finite.all() and _stays_finite(before, carry)):
        bad = done if finite.all() else int(np.argmin(finite))
        carry, done = _last_finite(engine, before, run.epoch, start, bad)
        epochs, step = divmod(start + done, engine.steps or math.inf)
        gave = "parameters or state that are not finite" if finite[done] else f"a cost of {steps.cost[done]}"
        warnings.warn(
            f"fit stopped, since step {int(step)} of epoch {run.epoch + int(epochs)} (both from 0) gave {gave}. It "
            f"returns the last finite state, that before step {int(step)}. Lower the learning rate, or look at that "
            "mini-batch.",
            RuntimeWarning,
            stacklevel=4,
        )
        run = run._replace(stopped="not finite")
        steps = jax.tree.map(lambda x: x[:done], steps)
    steps = steps._replace(may_go_on=None)  # Which is not recorded.
    params, opt_state = carry
    return run._replace(params=params, opt_state=opt_state, history=with_steps(run.history, steps), step=start + done)


def _last_finite(engine, carry, epoch, start, bad):
    """The last state from `start` on that is finite, found by running again, and how many steps it is after `start`."""

    def after(done):
        return engine.run(carry, epoch, start, start + done)[0] if done else carry

    done = bisect.bisect_left(range(1, bad + 1), True, key=lambda done: not _stays_finite(carry, after(done)))
    return after(done), done


@jax.jit
def _stays_finite(before, after):
    """Whether each number that was finite before is finite after; some states begin with an infinity."""
    floats = [
        jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        if jnp.issubdtype(new.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.array(floats)) if floats else jnp.array(True)
