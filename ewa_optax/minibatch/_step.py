"""One step on a mini-batch, and what is known of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._shared_programs import Shared, shared
from ewa_optax._stacks import unstack_leaves
from ewa_optax._wrappers.spikes import has_skipped
from ewa_optax._wrappers.watch import norms_or_none
from ewa_optax.pieces._learning_rate import rates_or_none


class Step(NamedTuple):
    """What is known of a step when it is over."""

    cost: Any
    learning_rate: Any
    """Of several a dict, by the names of their groups; None, where the state of the optimizer tells none."""
    examples: Any
    aux: Any
    norms: Any = None
    """By name; None, where not one `watch` keeps them."""
    may_go_on: Any = None
    """Whether the cost is finite, or the optimizer skipped the step."""


def concatenate(parts: list[Step]) -> Step:
    """Steps end to end; without any, no costs."""
    if not parts:
        return Step(np.zeros(0, np.float32), None, np.zeros(0, np.float32), None, may_go_on=np.zeros(0, bool))

    check_stackable(*(jax.tree.map(lambda x: x[0], part) for part in parts if len(part.cost)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def check_stackable(*steps: Step) -> None:
    """Raises ValueError for auxiliary outputs that can't be stacked."""

    def check(path, *xs):
        shapes = sorted({x.shape for x in xs})
        if len(shapes) > 1:
            raise ValueError(
                f"loss returned an aux{jax.tree_util.keystr(path[1:])} of shapes {shapes} for mini-batches of unlike "
                "sizes, which can't be stacked; return something of one shape, such as a mean, or pass "
                "remainder='mask' or 'drop'."
            )

    if steps:
        jax.tree_util.tree_map_with_path(check, *steps)


Update = Callable[..., tuple[Any, Any]]
"""`(numbers, gradients, opt_state, params, told) -> (updates, opt_state)`, with the numbers of `update_of`."""


def update_of(optimizer: optax.GradientTransformation, params: Any, opt_state: Any) -> tuple[Update, Any]:
    """The update of an optimizer, which is equal for optimizers that differ in their numbers only, and the numbers."""
    plain = optax.with_extra_args_support(optimizer).update

    def update(gradients, opt_state, params, grad, value):
        return plain(gradients, opt_state, params, value=value, grad=grad, value_fn=_unknown)

    try:
        # Of the kind of the cost nothing is known yet: whoever asks for it has an update of its own.
        cost = jax.ShapeDtypeStruct((), jnp.float32)
        found = shared(update, params, opt_state, params, params, cost, unused=1)
    except Exception:  # Which a step will raise again, where it is of use.
        found = None
    return (_Alike(found), found.numbers) if found else (UpdateOf(optimizer), None)


class CostUnknownError(Exception):
    """An update asked for the cost of other parameters, which only a step on a mini-batch can tell."""


def _unknown(params):
    raise CostUnknownError


@dataclasses.dataclass(frozen=True)
class _Alike:
    shared: Shared

    def __call__(self, numbers, gradients, opt_state, params, told):
        return self.shared(numbers, gradients, opt_state, params, told["grad"], jnp.float32(0))


@dataclasses.dataclass(frozen=True)
class UpdateOf:
    """That of one optimizer; it has no numbers."""

    optimizer: optax.GradientTransformation

    def __call__(self, numbers, gradients, opt_state, params, told):
        return optax.with_extra_args_support(self.optimizer).update(gradients, opt_state, params, **told)


def gradient_step(loss: Callable[..., Any], update: Update, has_aux: bool) -> Callable:
    """`(numbers, (params, opt_state), batch, **others) -> ((params, opt_state), Step)`."""

    def step(numbers, carry, batch, **others):
        params, opt_state = carry
        objective = functools.partial(objective_of, loss, has_aux, batch, others)
        (cost, aux), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        # What line searches and plateau schedules of optax ask for, as JAX gives it; others do not see it.
        told = dict(value=cost, grad=gradients, value_fn=lambda params: objective(params)[0])
        before = opt_state
        updates, opt_state = update(numbers, jax.tree.map(_uphill, gradients), before, params, told)
        examples = others["mask"].sum() if "mask" in others else jnp.float32(jax.tree.leaves(batch)[0].shape[0])
        may_go_on = jnp.isfinite(cost) | has_skipped(before, opt_state)
        step = Step(cost, rates_or_none(opt_state), examples, aux, norms_or_none(opt_state), may_go_on)
        return (optax.apply_updates(params, updates), opt_state), step

    return step


def _uphill(gradient):
    """Of complex parameters, JAX gives the conjugate of where the cost rises."""
    return gradient.conj() if jnp.iscomplexobj(gradient) else gradient


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
