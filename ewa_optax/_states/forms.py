"""Between two forms of one average: raw or corrected of its bias, a mean or a sum, squares or deviations."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from ewa_optax._numerics import Number, shares, squared_magnitude, weight_sum, widen
from ewa_optax._states.averages import Change, Computed, rows_of
from ewa_optax._states.decays import Decays
from ewa_optax._states.parts import SQUARES, Part
from ewa_optax.storage._telling import Kept


def change(given: Part, wanted: Part, step: Any, rate: Any, decays: Decays) -> Change:
    """What the average of one form must go through to be one of another, after `step` steps, at a learning rate."""
    of_optax = not isinstance(wanted.value, Kept)

    def decay() -> Number:
        return decays.of(wanted.path) if of_optax else wanted.decay

    def weights() -> Any:
        """The sum of the weights; None where nothing decays."""
        if step is None:
            raise ValueError(
                f"carry_over: the bias at {wanted.path} depends on the steps so far, but what was given counts none; "
                "give the state of an optimizer of the same algorithm."
            )
        beta = decay()
        if not isinstance(beta, jax.Array) and beta == 1:
            return None
        count = jnp.asarray(step, jnp.int32)
        return jnp.where(count == 0, 1, weight_sum(beta, jnp.maximum(count, 1)))

    def newest() -> jax.Array:
        return jnp.asarray(shares(decay())[1], float)

    match given.form, wanted.form:
        case "raw", "corrected":
            return Change(over=weights())
        case "average", "raw":
            # Where optax keeps sizes, AdaMax keeps squares here.
            squares = not of_optax or wanted.role != SQUARES or decays.is_of_squares(wanted.path)
            return Change(times=weights(), unless=None if squares is True else squares)
        case "raw", "maximum":
            return Change(squared=True)
        case "with the mean", "raw":
            return Change(times=jnp.asarray(decay(), float))
        case "raw", "with the mean":
            return Change(over=jnp.asarray(decay(), float))
        case "sum", "raw":
            return Change(times=newest())
        case "raw", "sum":
            return Change(over=newest())
        case "sum", "corrected":
            return Change(times=newest(), over=weights())
        case "steps", "raw":
            return Change(times=newest() if rate is None else -newest() / rate)
        case "raw", "steps":
            return Change(over=newest() if rate is None else -newest() / rate)
    if not _is_one_form(given.form, wanted.form):
        raise ValueError(
            f"carry_over: {given.path}, of the form {given.form!r}, can't become what the optimizer keeps at "
            f"{wanted.path}, of the form {wanted.form!r}; give an optimizer of the same algorithm."
        )
    return Change()


def _is_one_form(given, wanted):
    if given == "average":  # Which of this library's it is, its state does not tell.
        return wanted not in ("sum", "steps", "with the mean")
    as_it_is = given in ("raw", "as it is") and wanted in ("as it is", "of share", "additive", "difference", "past")
    return given == wanted or as_it_is or (given, wanted) == ("as it is", "maximum")


def deviations(given: Part, means: Any) -> Any:
    """The mean squares less the squares of the means, by their names."""
    of_means = rows_of(means)

    def one(name, row):
        return Computed(row.shape, row.dtype, lambda: _without_mean(row.read(), of_means[name].read()))

    return {name: one(name, row) for name, row in rows_of(given.value).items()}


@jax.jit
def _without_mean(squares, mean):
    return jnp.maximum(widen(squares) - squared_magnitude(widen(mean)), 0)


@jax.jit
def with_mean(squares: jax.Array, mean: jax.Array) -> jax.Array:
    """The mean squares, of the deviations from a mean, and that."""
    return (widen(squares) + squared_magnitude(widen(mean))).astype(squares.dtype)
