"""Training as a pure function: a step on a mini-batch, and whole epochs of them without Python in between."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import check_functions, check_integer, check_key, check_trainable
from ewa_optax.minibatch._batches import plan_batches
from ewa_optax.minibatch._loops import in_a_transformation, scan
from ewa_optax.minibatch._order import check_epoch
from ewa_optax.minibatch._step import UpdateOf, gradient_step, update_of


class Trained(NamedTuple):
    """What `minibatch.train` returns.

    Attributes:
        params: the parameters after the last step.
        opt_state: the state of the optimizer after the last step.
        costs: of each mini-batch, before its step, of shape (epochs, steps of an epoch).
        learning_rates: of each step; of several a dict of them, by their names in `get_learning_rates`; None where the
            state of the optimizer tells none.
        aux: the auxiliary outputs, each with two more axes in front; None without `has_aux`.
    """

    params: Any
    opt_state: Any
    costs: jax.Array
    learning_rates: jax.Array | dict[str, jax.Array] | None
    aux: Any


def train(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    params: Any,
    data: Any,
    *,
    batch_size: int,
    epochs: int,
    key: jax.Array,
    opt_state: Any = None,
    epoch: int | jax.Array = 0,
    has_aux: bool = False,
    has_key: bool = False,
    remainder: str = "keep",
    order: str | None = None,
    shards: int = 1,
) -> Trained:
    r"""Trains for whole epochs, as a pure function that can be put under `jax.jit`, `jax.vmap` and `jax.grad`.

    Each step is $\theta \leftarrow \theta + u(\nabla J^{\{t\}}(\theta))$ on the next mini-batch, $u$ the optimizer.
    For progress, validation, checkpoints and data that does not fit use `ewa_optax.fit`. Without `jax.jit` it is
    compiled too, once for a `loss`: another learning rate, or another number in the optimizer, is data. Convolutions
    are slow in here on a CPU (see `loop` of `minibatch.epoch`).

    Args:
        loss: `(params, batch) -> cost`, a scalar. With `has_aux` it returns `(cost, aux)`; with `has_key` it is called
            with `key=`, another key in each step, for dropout; with `remainder="mask"` with `mask=`.
        optimizer: any `optax.GradientTransformation`. To `jax.vmap` over a hyperparameter, make it inside.
        params: a pytree of float or complex arrays; or, for many small ones, `ewa_optax.stack_leaves` of it: `loss`
            sees the tree.
        data: a pytree of arrays, examples along the first axes.
        batch_size: $B$, from 1 to the number of examples $m$.
        epochs: how many passes over the data, 1 or more.
        key: a `jax.random` key, which decides the orders and the keys of the steps.
        opt_state: where the optimizer stands; None is `optimizer.init(params)`.
        epoch: the number of the first epoch, to go on where another call ended.
        has_aux: whether `loss` returns `(cost, aux)`.
        has_key: whether `loss` takes a `key`.
        remainder: `"keep"`, `"drop"` or `"mask"`, for the last mini-batch; see `minibatch.epoch`.
        order: `"permutation"`, `"bijection"` or None; see `minibatch.order`.
        shards: 1 shuffles globally, $S$ within each of $S$ parts; see `minibatch.epoch`.

    Returns:
        By name `params`, `opt_state`, `costs` of shape (epochs, steps of an epoch), and `learning_rates` and `aux`
        likewise.

    Raises:
        ValueError: a cost that is no scalar; what `minibatch.epoch` raises of data, `batch_size`, `remainder`, `order`
            and `shards`.
        TypeError: a cost that is not real, or comes with an `aux` and no `has_aux` (or the other way round); `epochs`
            or `batch_size` is no integer, or `key` no key.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import minibatch
        >>> x = jax.random.normal(jax.random.key(0), (1000, 3))
        >>> def final_cost(rate):
        ...     optimizer = ewa_optax.momentum(rate)
        ...     loss = lambda w, batch: jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        ...     data = {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5])}
        ...     run = minibatch.train(
        ...         loss, optimizer, jnp.zeros(3), data, batch_size=50, epochs=3, key=jax.random.key(1)
        ...     )
        ...     return run.costs[-1].mean()
        >>> costs = jax.jit(jax.vmap(final_cost))(jnp.array([0.001, 0.01, 0.1]))
        >>> print(costs.argmin())
        2

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Mini-batch gradient descent".
    """
    check_key(key)
    check_epoch(epoch)
    check_functions(loss, optimizer)
    check_trainable(params)
    epochs = check_integer("epochs", epochs, 1, remedy="one pass over the data is 1")
    batches = plan_batches(data, batch_size, remainder, order, shards, has_key=has_key)
    carry = (params, optimizer.init(params) if opt_state is None else opt_state)
    if in_a_transformation():  # What the loss encloses may be traced: nothing of it may be kept.
        whole, numbers = _whole(loss, UpdateOf(optimizer), has_aux, batches, epochs), None
    else:
        update, numbers = update_of(optimizer, *carry)
        whole = _compiled(loss, update, has_aux, batches, epochs)
    (params, opt_state), out = whole(numbers, carry, data, key, epoch)
    return Trained(params, opt_state, out.cost, out.learning_rate, out.aux)


@functools.lru_cache(maxsize=32)
def _compiled(*arguments):
    return jax.jit(_whole(*arguments))


def _whole(loss, update, has_aux, batches, epochs):
    step = gradient_step(loss, update, has_aux)

    def whole(numbers, carry, data, key, epoch):
        of_epoch = functools.partial(step, numbers)
        return jax.lax.scan(
            lambda carry, epoch: scan(of_epoch, batches, carry, data, key, epoch), carry, epoch + jnp.arange(epochs)
        )

    return whole
