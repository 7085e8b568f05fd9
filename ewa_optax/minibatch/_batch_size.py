"""How large a mini-batch should be: by rule, and by trial."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import optax

from ewa_optax._checks import check, check_functions, check_integer, check_key, check_trainable, rule
from ewa_optax._numerics import Number
from ewa_optax.minibatch._batches import count_examples, some_examples
from ewa_optax.minibatch._engines import engine_for
from ewa_optax.minibatch._evaluation import validator
from ewa_optax.minibatch._iterables import source_of
from ewa_optax.minibatch._order import order
from ewa_optax.minibatch._progress import Progress

Seconds = Annotated[Number, rule("finite and more than 0", lambda x: x > 0, "1 is enough for a small model")]


WHOLE_UP_TO = 2000
LARGEST_USUAL = 512
TRIED = (32, 64, 128, 256, 512, 1024)
LOOKS = 10
SAMPLE = 4096


class Trial(NamedTuple):
    """What one batch size reached."""

    batch_size: int
    steps: int
    cost: float
    """On the sample, when the time was over."""
    seconds: np.ndarray
    """Of training, up to each look at the cost; 0 first."""
    costs: np.ndarray
    """On the sample, at each look."""


class BatchSizes(NamedTuple):
    """What `minibatch.find_batch_size` returns; printed, it is a table.

    Attributes:
        best: the batch size of the lowest cost; None where no cost stayed finite.
        trials: what each batch size reached.
    """

    best: int | None
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        lines = [f"{'batch size':>10}  {'steps':>9}  {'examples':>12}  {'seconds':>7}  cost"]
        for trial in self.trials:
            examples = trial.steps * trial.batch_size
            best = "  best" * (trial.batch_size == self.best)
            lines.append(
                f"{trial.batch_size:>10}  {trial.steps:>9}  {examples:>12}  {trial.seconds[-1]:>7.2f}  "
                f"{trial.cost:.4g}{best}"
            )
        return "\n".join(lines)


def suggest_batch_size(num_examples: int, *, example_bytes: int | None = None, memory_bytes: int | None = None) -> int:
    r"""A batch size by the usual rule: everything up to 2000 examples, else 512, or what fits into memory.

    Up to $m = 2000$ examples the whole data is one batch. Beyond, it is a power of two of the usual 64 to 512: the
    largest $B$ such that $B$ times `example_bytes` fits into `memory_bytes` (below 64 where memory asks for it).
    It is a start: `minibatch.find_batch_size` tries.

    Args:
        num_examples: $m$, 1 or more.
        example_bytes: what one example takes on the device: itself, and its activations and their gradients. None
            leaves memory out of it.
        memory_bytes: what there is for a mini-batch, in bytes. None asks JAX what is free on the first device, and
            leaves memory out of it where JAX does not tell, as on a CPU.

    Returns:
        The batch size, from 1 to `num_examples`.

    Raises:
        ValueError: a number below 1, or an example larger than the memory.
        TypeError: a number that is no integer.

    Examples:
        >>> from ewa_optax import minibatch
        >>> print(minibatch.suggest_batch_size(1500), minibatch.suggest_batch_size(5_000_000))
        1500 512
        >>> minibatch.suggest_batch_size(5_000_000, example_bytes=4_000_000, memory_bytes=1_000_000_000)
        128

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Understanding mini-batch gradient descent".
    """
    size = check_integer("num_examples", num_examples, 1, remedy="count the examples")
    if memory_bytes is None:
        told = jax.local_devices()[0].memory_stats() or {}
        memory_bytes = told["bytes_limit"] - told.get("bytes_in_use", 0) if "bytes_limit" in told else None
    wanted = size if size <= WHOLE_UP_TO else LARGEST_USUAL
    if example_bytes is None or memory_bytes is None:
        return wanted
    one = check_integer("example_bytes", example_bytes, 1, 2**63, "count what one example takes")
    memory = check_integer("memory_bytes", memory_bytes, 1, 2**63, "give what is free, in bytes")
    if one > memory:
        raise ValueError(
            f"example_bytes must be at most memory_bytes, {memory}, got {one}; not even one example fits, so make "
            "the model or the example smaller."
        )
    fits = memory // one
    return wanted if wanted <= fits else min(LARGEST_USUAL, 1 << (fits.bit_length() - 1))


def find_batch_size(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    params: Any,
    data: Any,
    *,
    key: jax.Array,
    batch_sizes: Sequence[int] | None = None,
    seconds: float = 1.0,
    has_aux: bool = False,
    has_key: bool = False,
    progress: bool = True,
) -> BatchSizes:
    r"""Trains a short while with each of some batch sizes, and finds the one that reaches the lowest cost in that time.

    Each batch size starts from `params` and trains for `seconds`; what compilation takes comes on top. Now and then the
    cost of a sample of up to 4096 examples of `data` is computed (with `has_key`, for one and the same key), off the
    clock: this tells how fast the cost falls, not how well the model generalizes. The learning rate is the same for
    all: a rate tuned for one batch size favours it.

    Args:
        loss: `(params, batch) -> cost`, as of `ewa_optax.fit`.
        optimizer: any `optax.GradientTransformation`.
        params: a pytree of float or complex arrays, from which all start; it is left as it is.
        data: a pytree of arrays, examples along the first axes.
        key: a `jax.random` key, which decides the orders and the sample.
        batch_sizes: what to try, each from 1 to the number of examples; None is 32, 64, ..., 1024, as far as there are
            so many examples.
        seconds: how long to train with each.
        has_aux: whether `loss` returns `(cost, aux)`.
        has_key: whether `loss` takes a `key`.
        progress: whether to tell on stderr how far it is.

    Returns:
        `BatchSizes`, by name: `best`, and `trials` with `batch_size`, `steps`, `cost`, and `seconds` and `costs` of
        each look. `print` shows a table, and `ewa_optax.plots.batch_sizes` a picture.

    Raises:
        ValueError: no batch size, or one outside 1 to the number of examples; `seconds` not above 0; what
            `ewa_optax.fit` raises of data and loss.
        TypeError: `key` is no key, or a batch size no integer.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np, ewa_optax
        >>> from ewa_optax import minibatch
        >>> x = np.random.default_rng(0).standard_normal((400, 3), np.float32)
        >>> loss = lambda w, batch: jnp.mean((batch @ w - 1) ** 2)
        >>> found = minibatch.find_batch_size(
        ...     loss, ewa_optax.momentum(0.01), jnp.zeros(3), x,
        ...     key=jax.random.key(1), batch_sizes=[40, 200], seconds=0.05, progress=False,
        ... )
        >>> print(found.best in (40, 200), [trial.batch_size for trial in found.trials])
        True [40, 200]

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Understanding mini-batch gradient descent".
    """
    check_key(key)
    check("find_batch_size", "seconds", seconds, Seconds)
    check_functions(loss, optimizer)
    check_trainable(params)
    n = count_examples(data)
    sizes = _sizes(batch_sizes, n)
    sample = some_examples(data, np.asarray(order(n, key=key)[: min(n, SAMPLE)]))
    measured = functools.partial(loss, key=key) if has_key else loss
    cost_of = validator(measured, sample, SAMPLE, has_aux=has_aux)
    trials = []
    with Progress(progress, "trying batch sizes") as shown:
        for size in sizes:
            source = source_of(data, batch_size=size, has_key=has_key)
            carry = source.place((params, optimizer.init(params)))
            engine = engine_for(loss, optimizer, carry, source, key, has_aux=has_aux)
            trials.append(_tried(engine, carry, size, seconds, cost_of))
            shown.line(f"batch size {size}: cost {trials[-1].cost:.4g} after {trials[-1].steps} steps")
    finite = [trial for trial in trials if np.isfinite(trial.cost)]
    best = min(finite, key=lambda trial: trial.cost).batch_size if finite else None
    return BatchSizes(best, tuple(trials))


def _sizes(batch_sizes, n):
    if batch_sizes is None:
        return [size for size in TRIED if size <= n] or [n]
    if not isinstance(batch_sizes, Sequence | np.ndarray) or not len(batch_sizes):
        raise ValueError(
            f"batch_sizes must be a sequence of one or more, got {batch_sizes!r}; leave it out for powers of two."
        )
    whole = f"{n} makes the whole data one batch"
    return list(dict.fromkeys(check_integer("a batch size", size, 1, n, whole) for size in batch_sizes))


def _tried(engine, carry, size, seconds, cost_of):
    for first in {0, engine.steps - 1}:  # Compiles, for the smaller last batch too.
        engine.run(carry, 0, first, first + 1)
    looks, costs, elapsed = [0.0], [cost_of(carry[0])], 0.0
    steps, length = 0, 1
    finite = True
    while elapsed < seconds and finite:
        epoch, at = divmod(steps, engine.steps)
        stop = min(at + length, engine.steps)
        began = time.perf_counter()
        carry, done = engine.run(carry, epoch, at, stop)
        spent = time.perf_counter() - began
        elapsed, steps = elapsed + spent, steps + len(done.cost)
        length = 2 * length if spent < seconds / (2 * LOOKS) else length
        if elapsed >= min(looks[-1] + seconds / LOOKS, seconds):
            looks.append(elapsed)
            costs.append(cost_of(carry[0]))
        finite = bool(np.isfinite(done.cost).all())
    return Trial(size, steps, costs[-1] if finite else np.nan, np.array(looks), np.array(costs))
