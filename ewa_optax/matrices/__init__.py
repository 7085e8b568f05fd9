"""Pieces that look at matrices, to make optimizers of hidden layers, such as `ewa_optax.muon`.

Directions: orthogonalize, by CoefficientsLike: Coefficients, or the names of those in COEFFICIENTS.
Lengths: scale_by_shape (by a ShapeRule), scale_by_parameter_norm, preserve_norm (of what a piece makes of it).
Averages: of_outputs.
Bases: in_eigenbasis.
Parameters: keep_norm.
Which axes make a matrix: AxesLike, by default by name and shape; is_hidden_matrix, whether a leaf is that of a hidden
layer.

Muon, from its pieces, with its average in 8 bits:

    >>> from ewa_optax import matrices, pieces, storage
    >>> m = pieces.scale_by_ewa(0.95, storage.for_gradients("8bit"))
    >>> look_ahead = pieces.optimizer(pieces.beside(m), pieces.combine(0.05, 0.95), guard=None)
    >>> rate = pieces.scale_by_learning_rate(0.02)
    >>> orthogonal, scaled = matrices.orthogonalize(), matrices.scale_by_shape("original")
    >>> muon = pieces.optimizer(look_ahead, orthogonal, scaled, rate, guard=pieces.saturate_norm())
"""

from ewa_optax.matrices._axes import AxesLike
from ewa_optax.matrices._eigenbasis import in_eigenbasis
from ewa_optax.matrices._hidden import is_hidden_matrix
from ewa_optax.matrices._norms import keep_norm, of_outputs, preserve_norm, scale_by_parameter_norm
from ewa_optax.matrices._orthogonalize import COEFFICIENTS, Coefficients, CoefficientsLike, orthogonalize
from ewa_optax.matrices._shape import ShapeRule, scale_by_shape

__all__ = [
    "COEFFICIENTS",
    "AxesLike",
    "Coefficients",
    "CoefficientsLike",
    "ShapeRule",
    "in_eigenbasis",
    "is_hidden_matrix",
    "keep_norm",
    "of_outputs",
    "orthogonalize",
    "preserve_norm",
    "scale_by_parameter_norm",
    "scale_by_shape",
]
