"""Which leaves are the matrices of hidden layers."""

import re

import jax

from ewa_optax.matrices._axes import NO_MATRIX

# One part of a path with a number or a letter behind it, such as "head_0" or "ln_f".
_PART = r"(^|/)({})(_?\w?\d*)(/|$)"
# Tables, positions, learnt tokens, routers of experts, norms (in a scan: of two axes), the last layer.
_OTHER_LAYER = re.compile(
    _PART.format(r"\w*embed\w*|(\w+_)?emb|wte|wpe|\w*position\w*|pos|\w+_token|(\w+_)?router|\w*norm|ln"), re.IGNORECASE
)
_LAST_LAYER = re.compile(_PART.format(r"(\w+_)?head|\w*logit\w*|(\w+_)?classifier"), re.IGNORECASE)
# The heads of an attention are none of a model.
_ATTENTION = re.compile(_PART.format(r"\w*att(n|ention)\w*|query|key|value|[qkv]|qkv|[qkvo]_proj"), re.IGNORECASE)


def is_hidden_matrix(path: str, leaf: jax.ShapeDtypeStruct) -> bool:
    """Whether a leaf is a matrix of a hidden layer, by its name: all but embeddings, heads, norms and biases.

    It has two axes or more, and no part of its path is one of these, but for a number or a letter behind it:

    - "emb", or what has "embed" in it; "wte", "wpe", "pos", or what has "position" in it; what ends with "_token";
    - "head" or "classifier", or what ends with "_head" or "_classifier", or has "logit" in it, unless another part says
      that it is in an attention; "router", or what ends with "_router";
    - "ln", or what ends with "norm"; and, at its end, "b", or what ends with "bias", "scale", "gain" or "offset".

    Capitals count as small letters. What a model calls otherwise, its last layer above all, wants a rule of yours.

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
    if _OTHER_LAYER.search(path) or (_LAST_LAYER.search(path) and not _ATTENTION.search(path)):
        return False
    name = path.split("/")[-1]
    return len(leaf.shape) >= 2 and name.lower() != "b" and not NO_MATRIX.search(name)
