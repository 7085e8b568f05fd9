r"""Spikes: gradients, or losses, far above what was usual before, which are scaled down, or skipped."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Count, Decay, Whole, checked, transformation
from ewa_optax._numerics import increment
from ewa_optax._stacks import treating_stacks_as
from ewa_optax._wrappers.accumulate import AccumulateState
from ewa_optax._wrappers.conditional import step_if
from ewa_optax._wrappers.found import content, states_within
from ewa_optax._wrappers.norms import global_norm
from ewa_optax._wrappers.past import Deviations, Past, after, log_limit, no_past
from ewa_optax.pieces._learning_rate import scale_leaves
from ewa_optax.storage._sharding import boxes_that_fit, through_boxes


class ClipByPastNormState(NamedTuple):
    """What norms have been usual."""

    past: Past


class SkipSpikesState(NamedTuple):
    """How many steps were skipped, how many of them just now in a row for a spike, and what has been usual."""

    skipped: jax.Array
    in_a_row: jax.Array
    norm: Past
    loss: Past
    inner_state: Any


COUNTING = (SkipSpikesState, AccumulateState)


@checked
def clip_by_past_norm(
    deviations: Deviations = 3.0, decay: Decay = 0.99, *, warmup: Whole = 20
) -> optax.GradientTransformation:
    r"""Scales the whole gradient down where its norm is far above those before.

    $$u_t = g_t \min(1, e^{m + k s} / \lVert g_t \rVert)$$

    with the exponentially weighted mean $m$ and standard deviation $s$ of $\log \lVert u \rVert$ at the steps before.
    They see the norm as it leaves, so one spike does not raise them for long; a norm that stays high raises them until
    it passes. A deviation counts as 0.1 at least, a tenth of the norm.

    Args:
        deviations: $k$, more than 0: how many standard deviations a norm may be above the mean.
        decay: $\beta$ in [0, 1): mean and deviation are over about $1/(1-\beta)$ steps.
        warmup: how many norms must be known before one is scaled down, 0 or more; the first always passes.

    Returns:
        A transformation that keeps three numbers; put it in front of the optimizer. Updates leave in their own dtype. A
        gradient that is not finite, which no factor mends, passes as it is, and one of 0 too; both are left out of the
        mean. Behind `skip_spikes` no such gradient comes.

    Raises:
        ValueError: a number outside its range, or an array that is no scalar.
        TypeError: no number.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> clip = ewa_optax.clip_by_past_norm(deviations=3.0, warmup=1)
        >>> state = clip.init(jnp.zeros(1))
        >>> for gradient in (1.0, 1.0, 1000.0):
        ...     update, state = clip.update(jnp.array([gradient]), state)
        ...     print(update.round(2))
        [1.]
        [1.]
        [1.35]

    Reference:
        Wang et al., "AdaGC: improving training stability for large language model pretraining", 2025; Seetharaman et
        al., "AutoClip", 2020.
    """

    def init(params):
        del params
        return ClipByPastNormState(no_past())

    def update(updates, state, params=None):
        del params
        log = jnp.log(global_norm(updates)).astype(state.past.mean.dtype)
        limit = log_limit(state.past, deviations, warmup)
        # In logs, since the norm may be larger than what it is multiplied by is small.
        factor = jnp.exp(jnp.where(jnp.isfinite(log) & (log > limit), limit - log, 0))
        past = after(state.past, jnp.minimum(log, limit), decay, jnp.isfinite(log))
        return scale_leaves(updates, factor), ClipByPastNormState(past)

    return optax.GradientTransformation(init, through_boxes(update))


@checked
def skip_spikes(
    optimizer: optax.GradientTransformation,
    deviations: Deviations = 6.0,
    decay: Decay = 0.99,
    *,
    warmup: Whole = 20,
    most: Count = 10,
) -> optax.GradientTransformationExtraArgs:
    r"""Skips steps whose gradient has a norm far above those before, or whose loss is, or that are not finite.

    A skipped step moves neither parameters nor the state of the optimizer, which is not run: updates are 0. A norm is a
    spike if its log is more than $k$ standard deviations above the mean, both exponentially weighted, of the steps that
    were made; so is a loss, where `update(gradients, state, params, value=loss)` tells it, as `fit` does. A deviation
    counts as 0.1 at least, a tenth of the number.

    Args:
        optimizer: any transformation, to which further keyword arguments of `update`, `value` too, go.
        deviations: $k$, more than 0: how many standard deviations above the mean are usual.
        decay: $\beta$ in [0, 1): mean and deviation are over about $1/(1-\beta)$ steps.
        warmup: how many norms, and losses, must be known before one is a spike, 0 or more; the first never is.
        most: how many spikes in a row are skipped, 1 or more. The next one is let through, and in the mean, so that
            gradients that stay large lock nothing up.

    Returns:
        A transformation; its updates have the dtype of the gradients. A gradient or loss that is not finite is never
        let through, and is not among the spikes in a row. A loss of 0 or less, which has no log, is no spike.
        `get_skipped` counts the skipped steps.

    Raises:
        ValueError: a number outside its range, or an array that is no scalar; by `update`, a `value` that is no scalar.
        TypeError: `optimizer` is no transformation, or no number.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.skip_spikes(ewa_optax.gradient_descent(1.0), warmup=1)
        >>> state = optimizer.init(jnp.zeros(1))
        >>> for gradient in (1.0, 1.0, 1000.0, jnp.nan, 1.0):
        ...     update, state = optimizer.update(jnp.array([gradient]), state)
        ...     print(update)
        [-1.]
        [-1.]
        [0.]
        [0.]
        [-1.]
        >>> print(ewa_optax.get_skipped(state))
        2

    Reference:
        Chowdhery et al., "PaLM", 2022, section 5.1; `optax.apply_if_finite`.
    """
    inner = transformation("skip_spikes", "optimizer", optimizer, "adam(1e-3)")

    def init(params):
        skipped, in_a_row = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return SkipSpikesState(skipped, in_a_row, no_past(), no_past(), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        norm = global_norm(updates)
        seen = {"norm": norm} if extra_args.get("value") is None else {"norm": norm, "loss": _loss(extra_args["value"])}
        pasts = {name: getattr(state, name) for name in seen}
        logs = {name: jnp.log(x).astype(pasts[name].mean.dtype) for name, x in seen.items()}
        finite, spike = jnp.bool_(True), jnp.bool_(False)
        for name, x in seen.items():
            finite &= jnp.isfinite(x)
            spike |= logs[name] > log_limit(pasts[name], deviations, warmup)
        takes = finite & (~spike | (state.in_a_row >= most))

        def make_step(inner_state):
            return inner.update(updates, inner_state, params, **extra_args)

        out, inner_state = step_if(takes, make_step, updates, state.inner_state)
        in_a_row = jnp.where(finite, increment(state.in_a_row), state.in_a_row)
        return out, state._replace(
            skipped=jnp.where(takes, state.skipped, increment(state.skipped)),
            in_a_row=jnp.where(takes, 0, in_a_row),
            inner_state=inner_state,
            **{name: after(past, logs[name], decay, takes) for name, past in pasts.items()},
        )

    return treating_stacks_as(optimizer, boxes_that_fit(init), through_boxes(update))


def get_skipped(opt_state: Any) -> jax.Array:
    """How many steps `skip_spikes` has skipped, or how many micro-batches `accumulate` has left out.

    Args:
        opt_state: the state of an optimizer with one of these in it, however deep in chains, masks, wrappers or
            `optax.partition`.

    Returns:
        An int32 scalar array.

    Raises:
        ValueError: there is none in the state, or more than one: of both, one counts steps, and one micro-batches.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.skip_spikes(ewa_optax.adam(0.1))
        >>> _, state = optimizer.update(jnp.array([jnp.nan]), optimizer.init(jnp.ones(1)))
        >>> print(ewa_optax.get_skipped(state))
        1

    Reference:
        `skip_spikes`, `accumulate`.
    """
    found = [*states_within(opt_state, COUNTING)]
    if len(found) != 1:
        steps = sum(isinstance(x, SkipSpikesState) for x in found)
        raise ValueError(
            f"the optimizer state holds {steps} counts of steps, by skip_spikes, and {len(found) - steps} of "
            "micro-batches, by accumulate, but must hold one of either; pass the part of the state that holds the one "
            "you mean, such as state.inner_state."
        )
    return content(found[0].skipped)


def has_skipped(before: Any, after: Any) -> jax.Array:
    """Whether a step between two states was skipped, or a micro-batch left out, by what counts them."""
    counts = [[content(x.skipped) for x in states_within(state, COUNTING)] for state in (before, after)]
    return functools.reduce(jnp.logical_or, map(jnp.greater, *reversed(counts)), jnp.bool_(False))


def _loss(value):
    loss = jnp.asarray(value, float)
    if loss.shape:
        raise ValueError(f"skip_spikes: value must be a scalar, the loss, got shape {loss.shape}; average it.")
    return loss
