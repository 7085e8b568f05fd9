r"""How long a step of an orthogonal matrix is, by its shape."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ewa_optax._numerics import Number
from ewa_optax._trees import wide
from ewa_optax.matrices._axes import AxesLike, stateless


def original(inputs: int, outputs: int) -> float:
    r"""$\sqrt{\max(1, \mathrm{outputs} / \mathrm{inputs})}$."""
    return math.sqrt(max(1, outputs / max(inputs, 1)))


def match_rms_adamw(inputs: int, outputs: int) -> float:
    r"""$0.2 \sqrt{\max(\mathrm{inputs}, \mathrm{outputs})}$."""
    return 0.2 * math.sqrt(max(inputs, outputs))


def spectral(inputs: int, outputs: int) -> float:
    r"""$\sqrt{\mathrm{outputs} / \mathrm{inputs}}$."""
    return math.sqrt(outputs / max(inputs, 1))


RULES = {"original": original, "match_rms_adamw": match_rms_adamw, "spectral": spectral}
ShapeRule = str | Callable[[int, int], Number]
"""A name, or a function of the numbers of inputs and of outputs."""


def scale_by_shape(rule: ShapeRule = "match_rms_adamw", axes: AxesLike = None) -> optax.GradientTransformation:
    r"""Multiplies each matrix by a number that its inputs and outputs decide.

    An orthogonal matrix has a root mean square of $1 / \sqrt{\max(\mathrm{in}, \mathrm{out})}$, so without it large
    layers would take small steps. The rules, by the names that torch has for the first two:

    - "original", $\sqrt{\max(1, \mathrm{out}/\mathrm{in})}$, for rates of about 0.02.
    - "match_rms_adamw", $0.2 \sqrt{\max(\mathrm{in}, \mathrm{out})}$: a root mean square of 0.2, which is that of
      steps of AdamW, whose learning rate and weight decay then suit.
    - "spectral", $\sqrt{\mathrm{out}/\mathrm{in}}$: what a layer adds to its outputs has the size of its inputs.

    Args:
        rule: one of these, or a function of the numbers of inputs and of outputs.
        axes: as in `orthogonalize`.

    Returns:
        A transformation without a state. Updates leave in their own dtype.

    Raises:
        ValueError: an unknown rule; as in `orthogonalize`.
        TypeError: a rule that is neither a name nor a function.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import matrices
        >>> scale = matrices.scale_by_shape("original")
        >>> params = {"kernel": jnp.ones((2, 8))}  # Two inputs, eight outputs.
        >>> print(scale.update(params, scale.init(params))[0]["kernel"][0, 0])
        2.0

    Reference:
        Jordan, 2024; Liu et al., "Muon is scalable for LLM training", 2025, section 2.2; Yang et al., "A spectral
        condition for feature learning", 2023. The first one of a convolution is that of all its inputs, of which there
        are as many as it has pixels times channels.
    """
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(
            f"scale_by_shape: rule must be one of {', '.join(map(repr, RULES))}, or a function (inputs, outputs), got "
            f"{rule!r}; 'match_rms_adamw' takes the rates of AdamW."
        )
    if not (isinstance(rule, str) or callable(rule)):
        raise TypeError(
            f"scale_by_shape: rule must be a name or a function (inputs, outputs) -> number, got {rule!r}; for one "
            "number use optax.scale."
        )
    factor = RULES[rule] if isinstance(rule, str) else rule

    def of(matrix):
        return lambda u: wide(_times, factor(*matrix.sizes(u.shape)))(u)

    return stateless("scale_by_shape", axes, of)


def _times(number: Number, u: jax.Array) -> jax.Array:
    return jnp.asarray(number, u.dtype) * u
