"""The usual two groups of Muon: what it takes, and the rest."""

from typing import Any

from ewa_optax._checks import Decay, Epsilon, Rate, checked
from ewa_optax._optimizers.adam import adamw
from ewa_optax._optimizers.muon import muon
from ewa_optax._trees import Where
from ewa_optax._wrappers.groups import Groups, groups
from ewa_optax.matrices._axes import AxesLike
from ewa_optax.matrices._hidden import is_hidden_matrix
from ewa_optax.matrices._orthogonalize import CoefficientsLike
from ewa_optax.matrices._shape import ShapeRule
from ewa_optax.pieces._weight_decay import Mask, WeightDecay
from ewa_optax.storage._argument import MomentStorages, first_moment


@checked
def muon_with_adamw(
    learning_rate: Rate, weight_decay: WeightDecay = 0.1, mask: Mask = None, *, matrices: Where = is_hidden_matrix,
    adamw_learning_rate: Rate | None = None, decay: Decay = 0.95, b1: Decay = 0.9, b2: Decay = 0.95,
    eps: Epsilon = 1e-8, coefficients: CoefficientsLike = "jordan", steps: int = 5, dtype: Any = None,
    rule: ShapeRule = "match_rms_adamw", axes: AxesLike = None, storage: MomentStorages = None,
) -> Groups:  # fmt: skip
    r"""The usual two groups: `muon` for the matrices of hidden layers, `adamw` for the rest.

    Args:
        learning_rate: that of `muon`, and of `adamw` too unless it has one of its own.
        weight_decay, mask: as in `adamw`, for both.
        matrices: which leaves `muon` takes, as in `groups`: a regular expression searched in the path, or a function
            `(path, leaf) -> bool`. By default `matrices.is_hidden_matrix`, which goes by name: look at
            `print(optimizer.table(params))`.
        adamw_learning_rate: that of `adamw`, such as with the rule "original".
        b1, b2, eps: as in `adamw`, of `adamw`.
        decay, coefficients, steps, dtype, rule, axes: as in `muon`.
        storage: as in `adam`: of a pair, the first is that of both averages of gradients.

    Returns:
        `groups` of the names "muon" and "adamw".

    Raises:
        As in `muon`; ValueError by `init`, a group without a leaf.

    Examples:
        >>> import jax.numpy as jnp, ewa_optax
        >>> optimizer = ewa_optax.muon_with_adamw(1e-3, storage="8bit")
        >>> layer = {"kernel": jnp.ones((256, 256)), "bias": jnp.ones(256)}
        >>> print(optimizer.table({"up": layer, "head": layer}))
        group  leaves  parameters   rate  state bytes
        muon        1       65536  0.001        69652
        adamw       3       66048  0.001       144408
        all         4      131584              214060

    Reference:
        Jordan, 2024; Liu et al., 2025.
    """
    other_rate = learning_rate if adamw_learning_rate is None else adamw_learning_rate
    hidden = muon(
        learning_rate, decay, weight_decay, mask, coefficients=coefficients, steps=steps, dtype=dtype, rule=rule,
        axes=axes, storage=first_moment(storage),
    )  # fmt: skip
    rest = adamw(other_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask, storage=storage)
    return groups({"muon": (matrices, hidden), "adamw": (..., rest)})
