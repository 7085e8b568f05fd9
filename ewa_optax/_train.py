"""Training as a pure function: a step on a mini-batch, and whole epochs of them without Python in between."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._batches import split
from ewa_optax._checks import check_functions, check_integer, check_key
from ewa_optax._learning_rate import get_learning_rate
from ewa_optax._loops import scan
from ewa_optax._order import LARGEST, check_epoch
from ewa_optax._stacking import unstack_leaves


class Step(NamedTuple):
    """What is known of a step when it is over."""

    cost: Any
    learning_rate: Any
    """None, where the state of the optimizer does not tell a single one."""
    examples: Any
    aux: Any


class Trained(NamedTuple):
    """What `minibatch.train` returns.

    Attributes:
        params: the parameters after the last step.
        opt_state: the state of the optimizer after the last step.
        costs: of each mini-batch, before its step, of shape (epochs, steps of an epoch).
        learning_rates: of each step; None where the state of the optimizer does not tell a single one.
        aux: the auxiliary outputs, each with two more axes in front; None without `has_aux`.
    """

    params: Any
    opt_state: Any
    costs: jax.Array
    learning_rates: jax.Array | None
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
    For progress, validation, checkpoints and data that does not fit use `ewa_optax.fit`. Called without `jax.jit`, it
    compiles at each call. Convolutions are slow in here on a CPU (see `loop` of `minibatch.epoch`).

    Args:
        loss: `(params, batch) -> cost`, a scalar. With `has_aux` it returns `(cost, aux)`; with `has_key` it is called
            with `key=`, another key in each step, for dropout; with `remainder="mask"` with `mask=`.
        optimizer: any `optax.GradientTransformation`. To `jax.vmap` over a hyperparameter, make it inside.
        params: a pytree of float arrays; or, for many small ones, `ewa_optax.stack_leaves` of it: `loss` sees the tree.
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

    Example:
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
    epochs = check_integer("epochs", epochs, 1, LARGEST, "one pass over the data is 1")
    batches = split(data, batch_size, remainder, order, shards, has_key=has_key)
    step = gradient_step(loss, optimizer, has_aux)
    carry = (params, optimizer.init(params) if opt_state is None else opt_state)
    (params, opt_state), out = jax.lax.scan(
        lambda carry, epoch: scan(step, batches, carry, data, key, epoch), carry, epoch + jnp.arange(epochs)
    )
    return Trained(params, opt_state, out.cost, out.learning_rate, out.aux)


def gradient_step(loss: Callable[..., Any], optimizer: optax.GradientTransformation, has_aux: bool) -> Callable:
    """`((params, opt_state), batch, **others) -> ((params, opt_state), Step)`."""
    update = optax.with_extra_args_support(optimizer).update

    def step(carry, batch, **others):
        params, opt_state = carry
        objective = functools.partial(objective_of, loss, has_aux, batch, others)
        (cost, aux), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        # What line searches and plateau schedules of optax ask for; others do not see it.
        told = dict(value=cost, grad=gradients, value_fn=lambda params: objective(params)[0])
        updates, opt_state = update(gradients, opt_state, params, **told)
        examples = others["mask"].sum() if "mask" in others else jnp.float32(jax.tree.leaves(batch)[0].shape[0])
        return (optax.apply_updates(params, updates), opt_state), Step(cost, _rate(opt_state), examples, aux)

    return step


def objective_of(loss: Callable[..., Any], has_aux: bool, batch: Any, others: dict[str, Any], params: Any) -> Any:
    """The cost and the auxiliary output, or None, of parameters on a mini-batch."""
    out = loss(unstack_leaves(params), batch, **others)
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(f"with has_aux, loss must return (cost, aux), got {type(out).__name__}; return both.")
    if not has_aux and isinstance(out, tuple):
        raise TypeError(f"loss must return a scalar, got a tuple of {len(out)}; for (cost, aux) pass has_aux=True.")
    cost, aux = out if has_aux else (out, None)
    cost = jnp.asarray(cost)
    if cost.shape:
        raise ValueError(f"loss must return a scalar, got shape {cost.shape}; average it, by jnp.mean, over the batch.")
    if not jnp.issubdtype(cost.dtype, jnp.floating):
        raise TypeError(f"loss must return a real number, got {cost.dtype}; return a float.")
    return cost, aux


def _rate(opt_state):
    try:
        return get_learning_rate(opt_state)
    except ValueError:
        return None
