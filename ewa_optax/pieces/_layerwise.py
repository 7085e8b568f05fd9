r"""What looks at a whole array of parameters at once, a layer: its norm, its mean, its rows and columns."""

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import Epsilon, checked, rule, transformation
from ewa_optax._numerics import Number, is_just, largest, mean, norm, widen
from ewa_optax._trees import Leafwise, PartKey, map_leaves, wide
from ewa_optax.pieces._combining import by_step
from ewa_optax.pieces._weight_decay import Mask, WeightDecay, weight_decay_at, with_parameters
from ewa_optax.storage._checkpoints import with_fillers, with_means, without_fillers, without_means
from ewa_optax.storage._formats import Factored, Factors, means

TrustCoefficient = Annotated[
    Number, rule("finite and 0 or more", lambda x: x >= 0, "0.001 is the usual value in LARS, 1 in LAMB")
]
ClipThreshold = Annotated[Number, rule("finite and more than 0", lambda x: x > 0, "1 is the usual value")]
MinScale = Annotated[Number, rule("finite and 0 or more", lambda x: x >= 0, "1e-3 is the usual value")]


@jax.tree_util.register_pytree_with_keys_class
class RowsAndColumns(NamedTuple):
    """Trees like the parameters: of arrays with fewer than two axes, of rows, and of columns; None elsewhere.

    Three trees of arrays, because wrappers such as flax's nnx keep no pairs in the place of a leaf.
    """

    whole: Any
    rows: Any
    columns: Any

    def tree_flatten_with_keys(self):
        """For JAX."""
        keys = PartKey("whole", ""), PartKey("rows", ".rows"), PartKey("columns", ".columns")
        return tuple(zip(keys, self, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, trees):
        """For JAX."""
        return cls(*trees)


class Pair(NamedTuple):
    """The means of rows and of columns of one array."""

    rows: Any
    columns: Any


@checked
def scale_by_trust_ratio(
    coefficient: TrustCoefficient = 1.0, weight_decay: WeightDecay = 0.0, mask: Mask = None
) -> optax.GradientTransformation:
    r"""Makes the update of each array a share of the norm of its parameters.

    $$u_t = c \frac{\lVert w \rVert}{\lVert g_t \rVert + \lambda \lVert w \rVert} (g_t + \lambda w)$$

    The mask is of the decay. For the ratio of some arrays only: `optax.masked(scale_by_trust_ratio(), mask)`.

    Args:
        coefficient: $c$, 0 or more: the share.
        weight_decay: $\lambda$, 0 or more, of a decay that is coupled to the gradient, and counts in the ratio: a
            number, a scalar array or a schedule.
        mask: a tree of booleans like the parameters or a prefix of theirs (or a function of the parameters that gives
            one): True where weights decay. All do by default.

    Returns:
        A transformation whose state is the step count, and whose `update` needs the parameters. Where one of the norms
        is 0, the ratio is 1. Updates leave in their own dtype.

    Raises:
        ValueError: a number that is negative or not finite, or no parameters.
        TypeError: an argument that is no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> scale = pieces.scale_by_trust_ratio(0.1)
        >>> w = jnp.array([3.0, 4.0])
        >>> print(scale.update(jnp.array([0.0, 2.0]), scale.init(w), w)[0])
        [0.  0.5]

    Reference:
        You et al., "Large batch training of convolutional networks", 2017 (LARS), and "Large batch optimization for
        deep learning: training BERT in 76 minutes", 2020 (LAMB).
    """

    def scaled(updates, step, params):
        rate = weight_decay_at(weight_decay, step - 1)

        def of(decays):
            return wide(_trusted, coefficient, rate if decays else None)

        return with_parameters("scale_by_trust_ratio", of, updates, params, False if is_just(weight_decay, 0) else mask)

    return by_step(scaled)


@checked
def clip_by_rms(threshold: ClipThreshold = 1.0) -> optax.GradientTransformation:
    r"""Scales the update of each array down to a root mean square: $u_t = g_t / \max(1, \mathrm{RMS}(g_t) / d)$.

    Args:
        threshold: $d$, more than 0.

    Returns:
        A transformation without a state. Updates leave in their own dtype.

    Raises:
        ValueError: a threshold of 0 or less.
        TypeError: a threshold that is no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> clip = pieces.clip_by_rms(1.0)
        >>> print(clip.update(jnp.array([3.0, 3.0]), clip.init(jnp.zeros(2)))[0])
        [1. 1.]

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 6.
    """
    clip = wide(_clipped, threshold)
    return optax.stateless(lambda updates, params: map_leaves(clip, updates))


@checked
def scale_by_parameter_rms(min_scale: MinScale = 1e-3) -> optax.GradientTransformation:
    r"""Multiplies the update of each array by the size of its parameters, formed in float32 or wider.

    $$u_t = \max(\varepsilon, \mathrm{RMS}(w))\, g_t$$

    Args:
        min_scale: $\varepsilon$, 0 or more, so that parameters leave 0.

    Returns:
        A transformation without a state, whose `update` needs the parameters. Updates leave in their own dtype.

    Raises:
        ValueError: a number that is negative or not finite, or no parameters.
        TypeError: an argument that is no number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ewa_optax import pieces
        >>> scale = pieces.scale_by_parameter_rms()
        >>> w = jnp.array([2.0, -2.0])
        >>> print(scale.update(jnp.array([0.5, 1.0]), scale.init(w), w)[0])
        [1. 2.]

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 8.
    """
    scale = wide(_scaled, min_scale)
    return optax.stateless(
        lambda updates, params: with_parameters("scale_by_parameter_rms", lambda decays: scale, updates, params, None)
    )


def of_arrays(average: optax.GradientTransformation) -> optax.GradientTransformation:
    r"""An average of the sum over each array, one number for all of it.

    Args:
        average: an average, such as `scale_by_ewa`, which gets one number for each array: its sum, which saturates at a
            quarter of the largest number.

    Returns:
        A transformation that keeps one number per array of parameters; scalars, in float32 or wider, leave.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> average = pieces.of_arrays(ewa_optax.scale_by_ewa(0.5))
        >>> print(average.update(jnp.array([3.0, 5.0]), average.init(jnp.zeros(2)))[0])
        4.0

    Reference:
        Ginsburg et al., "Stochastic gradient methods with layer-wise adaptive moments", 2019 (NovoGrad).
    """
    return of_summaries(transformation("of_arrays", "average", average), Leafwise(_total))


def of_rows(average: optax.GradientTransformation) -> optax.GradientTransformation:
    r"""An average of the mean of each row, one number for all of it.

    Args:
        average: an average, such as `scale_by_ewa`, which gets the means over the last axis, with that axis kept as one
            of length 1.

    Returns:
        A transformation that keeps one number for each row of a matrix (of arrays with more axes, for all along the
        last one; a scalar is a row of its own). What leaves has the shape that came, in float32 or wider: as a second
        moment, it makes one rate for each row.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> average = pieces.of_rows(ewa_optax.scale_by_ewa(0.0))
        >>> print(average.update(jnp.array([[1.0, 3.0], [2.0, 6.0]]), average.init(jnp.zeros((2, 2))))[0])
        [[2. 2.]
         [4. 4.]]

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 3, keeps rows and columns.
    """
    return of_summaries(transformation("of_rows", "average", average), Leafwise(_row_means), SPREAD)


@checked
def of_rows_and_columns(average: optax.GradientTransformation, eps: Epsilon = 0.0) -> optax.GradientTransformation:
    r"""An average of the means of rows and of columns; what leaves is their product, over the mean of all.

    $$V = R\,C / \bar R, \qquad R = a(\text{means of } g_t + \varepsilon \text{ over the last axis}), \quad
      C = a(\text{those over the one before it})$$

    Args:
        average: $a$, an average of squares, such as `scale_by_ewa`.
        eps: $\varepsilon$, 0 or more, added to each square.

    Returns:
        A transformation that keeps two vectors for a matrix (and for each matrix of an array with more axes), but all
        of an array with fewer than two axes.

    Raises:
        TypeError: what is no transformation.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> from ewa_optax import pieces
        >>> average = pieces.of_rows_and_columns(ewa_optax.scale_by_ewa(0.0))
        >>> print(average.update(jnp.array([[1.0, 3.0], [2.0, 6.0]]), average.init(jnp.zeros((2, 2))))[0])
        [[1. 3.]
         [2. 6.]]

    Reference:
        Shazeer and Stern, "Adafactor", 2018, section 3.
    """
    inner = transformation("of_rows_and_columns", "average", average)
    return of_summaries(inner, Leafwise(_factors, eps), Leafwise(_product), in_parts=_in_parts)


def for_checkpoint(state: Any) -> Any:
    """A state as checkpoints have it since 0.1.0: rows and columns stand in pairs in the places of their leaves."""
    state = without_fillers(state)

    def leaf(whole: Any, rows: Any, columns: Any) -> Any:
        return Pair(rows, columns) if jax.tree.leaves([rows, columns]) else whole

    def joined(node):
        return jax.tree.map(leaf, *node, is_leaf=lambda x: x is None) if _is_in_parts(node) else node

    return jax.tree.map(joined, state, is_leaf=_is_in_parts)


def for_older_checkpoint(state: Any) -> Any:
    """The same, as it was before `Factored` kept the mean of all."""
    return without_means(for_checkpoint(state))


def from_checkpoint(like: Any, state: Any) -> Any:
    """The inverse of both, for a state that is to be like another one."""
    state = with_means(for_checkpoint(like), state)

    def parted(like, node):
        if not _is_in_parts(like):
            return node
        parts = (functools.partial(_part, i) for i in range(3))
        return RowsAndColumns(*(jax.tree.map(part, like.whole, node, is_leaf=lambda x: x is None) for part in parts))

    return with_fillers(like, jax.tree.map(parted, without_fillers(like), state, is_leaf=_is_in_parts))


def _in_parts(tree, summaries):
    parts = (functools.partial(_part, i) for i in range(3))
    return RowsAndColumns(*(map_leaves(part, tree, summaries) for part in parts))


def _part(i, _, summary):
    return ((None, *summary) if isinstance(summary, Pair) else (summary, None, None))[i]


def _is_in_parts(x):
    return isinstance(x, RowsAndColumns)


def of_summaries(
    average: Any,
    summarize: Callable[..., Any],
    expand: Callable[..., Any] | None = None,
    *,
    mapped: Callable[[Callable[..., Any], Any], Any] = map_leaves,
    in_parts: Callable[[Any, Any], Any] | None = None,
) -> optax.GradientTransformation:
    """An average of what `summarize` makes of each leaf; what leaves, `expand(update, average)` makes of it.

    `mapped` is how a tree is summarized, if not leaf by leaf; `in_parts(tree, summaries)` makes several trees of one.
    """

    def summaries(of, tree):
        each = mapped(of, tree)
        return in_parts(tree, each) if in_parts else each

    def summary(*given):
        # Of integers the average itself complains, and knows their name.
        return summarize(*given) if jnp.issubdtype(jnp.result_type(given[-1]), jnp.inexact) else given[-1]

    def init(params):
        return average.init(jax.eval_shape(functools.partial(summaries, summary), params))

    def update(updates, state, params=None):
        del params
        averages, state = average.update(summaries(summarize, updates), state)
        if not expand:
            return averages, state
        return map_leaves(expand, updates, *(averages if in_parts else [averages])), state

    return optax.GradientTransformation(init, update)


def _total(u):
    x = widen(u)
    return jnp.minimum(jnp.sum(x), largest(x.dtype) / 4)


def _row_means(u):
    x = widen(u)
    return mean(x, -1, keepdims=True) if x.ndim else x


def _spread(u, averages):
    return jnp.broadcast_to(averages, jnp.shape(u))


SPREAD = Leafwise(_spread)
"""Averages with axes of length 1, in the places of an update."""

_FACTORED = Factored(min_size=0)


def _factors(eps, u):
    x = widen(u)
    x = x if is_just(eps, 0) else x + jnp.asarray(eps, x.dtype)
    return Pair(*means(x)) if _FACTORED.takes(x.shape) else x


def _product(u, whole, rows, columns):
    del u
    return _FACTORED.decode(Factors.of(rows, columns)) if whole is None else whole


def _trusted(coefficient, rate, g, w):
    size, own = norm(w), norm(g)
    if rate is not None:
        g, own = g + jnp.asarray(rate, w.dtype) * w, own + jnp.asarray(rate, size.dtype) * size
    ratio = jnp.where((size == 0) | (own == 0), 1.0, coefficient * size / jnp.where(own == 0, 1.0, own))
    return jnp.minimum(ratio, largest(size.dtype)).astype(g.dtype) * g


def _clipped(threshold, u):
    return u / jnp.maximum(1.0, _rms(u) / threshold).astype(u.dtype)


def _scaled(min_scale, u, p):
    # No number is larger than the root mean square of n by more than a factor of sqrt(n).
    most = largest(p.dtype) / 4 / math.sqrt(max(p.size, 1))
    return jnp.minimum(jnp.maximum(_rms(p), min_scale), most).astype(u.dtype) * u


def _rms(x):
    return norm(x, float(max(x.size, 1)))
