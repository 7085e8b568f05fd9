"""Which leaves are the matrices of hidden layers."""

import re

import jax

# Layers, by one part of the path: tables, positions, the last layer, routers of experts, norms (in a scan: matrices).
_OTHER_LAYER = re.compile(
    r"(^|/)(\w*embed\w*|wte|wpe|\w*position\w*|(\w+_)?(head|logits|router)|\w*norm|ln)(_?\w?\d*)(/|$)", re.IGNORECASE
)
_NO_MATRIX = re.compile(r"(^|/)(b|\w*(bias|scale|gain|offset))$", re.IGNORECASE)


def is_hidden_matrix(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """Whether a leaf is a matrix of a hidden layer, by its name: all but embeddings, heads, norms and biases.

    It has two axes or more; no part of its path is, but for a number or a letter behind it, "embed" (or has it in it),
    "wte", "wpe", "position", "head", "logits", "router" (or one of these three behind a "_"), "norm" (or ends with it)
    or "ln"; and its last part is none that ends with "bias", "scale", "gain" or "offset", and no "b". Capitals count
    as small letters. What a model calls otherwise, its last layer above all, wants a rule of yours.

    Args:
        path: as in `ewa_optax.groups`, such as "layers/0/mlp/kernel".
        leaf: the shape.

    Returns:
        True for those that `ewa_optax.muon_with_adamw` gives to Muon.

    Raises:
        TypeError: a path that is no string.

    Examples:
        >>> import jax
        >>> from ewa_optax import matrices
        >>> [matrices.is_hidden_matrix(f"{x}/kernel", jax.ShapeDtypeStruct((8, 8), "float32")) for x in ("up", "head")]
        [True, False]

    Reference:
        Jordan, "Muon", 2024: "embeddings, classifier heads, and scalar and vector parameters should be optimized by a
        method such as AdamW".
    """
    return len(leaf.shape) >= 2 and not _OTHER_LAYER.search(path) and not _NO_MATRIX.search(path)
