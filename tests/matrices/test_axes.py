"""Which axes are those of a matrix, and which leaves are matrices of hidden layers: by the names of real models."""

import re

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ewa_optax
from ewa_optax import matrices
from ewa_optax._trees import path_name, shape_of
from ewa_optax.matrices._axes import matrices_of
from ewa_optax.storage._sharding import is_box

KEY = jax.random.key(0)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens, image):
        x = nn.LayerNorm()(nn.Embed(11, 8)(tokens))
        x = nn.MultiHeadDotProductAttention(2)(x, x)
        x = nn.Conv(8, (3,))(x) + nn.ConvTranspose(8, (3,))(x) + nn.RNN(nn.GRUCell(8))(x)
        x = nn.Dense(8)(nn.relu(nn.Dense(16, name="gate_proj")(nn.RMSNorm()(x))))
        return nn.Dense(11, name="lm_head")(x), nn.Conv(4, (3, 5))(image)


def linen():
    return jax.eval_shape(Linen().init, KEY, jnp.zeros((1, 4), int), jnp.zeros((1, 8, 8, 3)))["params"]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm, self.conv = nnx.LayerNorm(8, rngs=rngs), nnx.Conv(3, 8, (3, 5), rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)])
        self.head = nnx.Linear(8, 11, rngs=rngs)


def of_nnx():
    return nnx.state(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))), nnx.Param)


def equinox():
    def make(key):
        return {
            "tok_emb": eqx.nn.Embedding(11, 8, key=key),
            "attention": eqx.nn.MultiheadAttention(2, 8, key=key),
            "convs": [eqx.nn.Conv2d(3, 8, (3, 5), key=key), eqx.nn.ConvTranspose2d(3, 8, (3, 5), key=key)],
            "mlp": eqx.nn.MLP(8, 8, 16, 1, key=key),
            "norm": eqx.nn.LayerNorm(8),
            "cell": eqx.nn.GRUCell(4, 8, key=key),
            "head": eqx.nn.Linear(8, 11, key=key),
        }

    return eqx.filter(eqx.filter_eval_shape(make, KEY), lambda x: isinstance(x, jax.ShapeDtypeStruct))


def haiku():
    def model(tokens, image):
        x = hk.LayerNorm(-1, True, True)(hk.Embed(11, 8)(tokens))
        x = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling(), model_size=8)(x, x, x)
        x = hk.Conv1D(8, 3)(x) + hk.Conv1DTranspose(8, 3)(x)
        x = hk.Linear(11, name="lm_head")(hk.nets.MLP([16, 8])(x))
        return x, hk.Conv2D(4, (3, 5))(image), hk.Conv2DTranspose(4, (3, 5))(image)

    return jax.eval_shape(hk.transform(model).init, KEY, jnp.zeros((1, 4), int), jnp.zeros((1, 8, 8, 3)))


DENSE, TRANSPOSED = ((0,), (1,)), ((1,), (0,))
MODELS = {  # The hidden matrices, by patterns, and their axes.
    linen: {
        "(key|query|value)/kernel": ((0,), (1, 2)),
        "out/kernel": ((0, 1), (2,)),
        "(Conv|ConvTranspose)_0/kernel": ((0, 1), (2,)),
        "Conv_1/kernel": ((0, 1, 2), (3,)),
        r"(Dense_\d|gate_proj|GRUCell_0/..)/kernel": DENSE,
    },
    of_nnx: {
        "(key|query|value)/kernel": ((0,), (1, 2)),
        "out/kernel": ((0, 1), (2,)),
        "conv/kernel": ((0, 1, 2), (3,)),
        r"layers/\d/kernel": DENSE,
    },
    equinox: {
        r"convs/\d/weight": ((1, 2, 3), (0,)),
        r"attention/\w+_proj/weight|mlp/layers/\d/weight|cell/weight_ih|cell/weight_hh": TRANSPOSED,
    },
    haiku: {
        "conv1_d/w": ((0, 1), (2,)),
        "conv1_d_transpose/w": ((0, 2), (1,)),
        "conv2_d/w": ((0, 1, 2), (3,)),
        "conv2_d_transpose/w": ((0, 1, 3), (2,)),
        r"mlp/~/linear_\d/w|multi_head_attention/(query|key|value|linear)/w": DENSE,
    },
}


def leaves_of(tree):
    """By path, boxes of flax as one leaf."""
    return {path_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]}


@pytest.mark.parametrize("make", MODELS)
def test_the_layers_of_real_models_have_their_axes_and_the_rest_is_for_adamw(make):
    params, unseen = make(), {*MODELS[make]}
    optimizer = ewa_optax.muon_with_adamw(1e-3, storage="8bit")
    labels = leaves_of(optimizer.labels(params))
    for path, x in leaves_of(params).items():
        pattern = next((pattern for pattern in MODELS[make] if re.fullmatch(f".*({pattern})", path)), None)
        assert labels[path] == ("adamw" if pattern is None else "muon"), path
        if pattern is not None:
            unseen.discard(pattern)
            matrix = jax.tree.leaves(matrices_of("it", None, {path: x}), is_leaf=lambda x: hasattr(x, "inputs"))[0]
            assert (matrix.inputs, matrix.outputs) == MODELS[make][pattern], path
    assert not unseen
    jax.eval_shape(lambda params: optimizer.update(params, optimizer.init(params), params), params)
    assert re.search(r"^muon +\d+ .*\nadamw +\d+ .*\nall ", optimizer.table(params), re.MULTILINE)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8)(nn.relu(nn.Conv(16, (3,))(nn.LayerNorm()(x)))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]


def test_layers_in_a_scan_are_an_error_until_their_axes_are_said():
    params = jax.eval_shape(Scanned().init, KEY, jnp.zeros((2, 4, 8)))["params"]
    for layer, of_layer in params["ScanLayer_0"].items():
        if "kernel" in of_layer:
            with pytest.raises(ValueError, match=rf"'ScanLayer_0/{layer}/kernel' of shape .* axes, .*write axes="):
                ewa_optax.muon(1e-3).init({"ScanLayer_0": {layer: {"kernel": of_layer["kernel"]}}})
    optimizer = ewa_optax.muon_with_adamw(1e-3, axes={"Conv": ((1, 2), 3), "Dense": (1, 2)})
    labels = leaves_of(optimizer.labels(params))
    assert [path for path, label in labels.items() if label == "muon"] == [path for path in labels if "kernel" in path]
    jax.eval_shape(optimizer.init, params)


NO_LEAVES = {  # Leaves that no rule of names takes, and what is said of them.
    "layers/experts/w1": ((4, 8, 16), r"has 3 axes, .*write axes=\{'layers/experts/w1': \(inputs, outputs\)\}"),
    "query/kernel": ((3, 8, 2, 4), "has 4 axes"),
    "ConvBlock/Dense_0/kernel": ((3, 8, 8), "has 3 axes"),
    "ConvLocal_0/kernel": ((8, 8, 72, 4), "has 4 axes"),
    "Dense_0/bias": ((3, 8), "is no matrix.*ewa_optax.groups"),
    "query/bias": ((2, 4), "is no matrix.*ewa_optax.groups"),
    "LayerNorm_0/scale": ((3, 8), "is no matrix.*ewa_optax.groups"),
    "norm/gain": ((8,), "is no matrix.*ewa_optax.groups"),
    "rate": ((), "is no matrix.*muon_with_adamw"),
    "Embed_0/embedding": ((11, 8), r"is a table .*ewa_optax.groups.*axes=\{'embedding': \(0, 1\)\}"),
    "embed/embeddings": ((11, 8), "is a table"),
}


@pytest.mark.parametrize("path", NO_LEAVES)
def test_what_is_no_matrix_is_an_error_that_shows_what_to_write(path):
    shape, message = NO_LEAVES[path]
    params = jnp.zeros(shape)
    for name in reversed(path.split("/")):
        params = {name: params}
    for make in (ewa_optax.muon, ewa_optax.normuon, ewa_optax.muon_hyperball):
        with pytest.raises(ValueError, match=f"'{path}' of shape .*{message}"):
            make(1e-3).init(params)
    for make in (matrices.scale_by_shape, matrices.keep_norm, matrices.scale_by_parameter_norm):
        with pytest.raises(ValueError, match=f"'{path}' of shape .*{message}"):
            make().update(params, make().init({}), params)


def axes_of(axes, shape, path="a/kernel"):
    return matrices_of("it", axes, {path: jax.ShapeDtypeStruct(shape, jnp.float32)})[path]


def test_axes_are_said_by_a_pair_a_dict_or_a_function():
    shape = (2, 3, 4)
    for axes in (
        (1, 2),
        (-2, -1),
        ((1,), [2]),
        {"kernel$": (1, 2)},
        {re.compile("^b"): (0, 1), "a": (1, 2), ...: (0, 1)},
        {...: (1, -1)},
        {lambda path, leaf: leaf.ndim == 3: (1, 2)},
        lambda path, leaf: (1, 2) if path == "a/kernel" and leaf.shape == shape else None,
    ):
        matrix = axes_of(axes, shape)
        assert (matrix.inputs, matrix.outputs, matrix.is_flat) == ((1,), (2,), True)
    assert axes_of({"^b": (1, 0)}, (3, 4)) == axes_of(lambda path, leaf: None, (3, 4)) == axes_of(None, (3, 4))
    assert axes_of(((), (0,)), (4,)).sizes((4,)) == (1, 4)
    assert axes_of((0, ()), (4,)).sizes((4,)) == (4, 1)
    assert axes_of(((), ()), ()).sizes(()) == (1, 1)


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        (1, TypeError, r"pair \(inputs, outputs\).*got 1; such as"),
        ((0, 1, 2), TypeError, r"got \(0, 1, 2\); such as"),
        (("0", 1), TypeError, "such as"),
        ({"a": 1}, TypeError, "got 1; such as"),
        ({3: (0, 1)}, TypeError, "where axes are must be a regular expression.*got 3"),
        ({"(": (0, 1)}, ValueError, "regular expression"),
        ((0, 5), ValueError, r"axes \(\(0,\), \(5,\)\) are not all of 'a/kernel' of shape \(2, 3, 4\); count"),
        ((-4, 1), ValueError, "count them from 0, or from -1 backwards"),
        ((0, 0), ValueError, "'a/kernel' has an axis twice"),
        ((-1, 2), ValueError, "has an axis twice"),
        (lambda path, leaf: 1, TypeError, "got 1; such as"),
    ],
)
def test_what_describes_no_axes_is_an_error(axes, error, message):
    with pytest.raises(error, match=message):
        matrices.orthogonalize(axes=axes).init({"a": {"kernel": jnp.zeros((2, 3, 4))}})


HIDDEN = """
layers/0/mlp/kernel gate_proj/kernel up_proj/kernel down_proj/kernel c_fc/kernel c_proj/kernel wi/kernel wo/kernel
multihead_attention/query/kernel multi_head_attention/linear/w MultiHeadDotProductAttention_0/out/kernel qkv/kernel
attention/heads/0/query/kernel Head_0/key/kernel block/attn/head_0/kernel to_qkv/kernel wq w1 self_attn/q_proj/weight
attn/c_attn/kernel o_proj/kernel value/kernel head_dim/kernel head_dim_proj/kernel normalizer/kernel Dense_0/kernel
linear_1/w conv1/kernel experts/w1 gate/kernel token_mixing/Dense_0/kernel channel_mixing/kernel member/kernel
in_proj/weight lstm/linear/w gating_einsum overhead/kernel feed_forward/w_gate GRUCell_0/hn/kernel kernel
"""
OTHERS = """
embed/embedding Embed_0/embedding tok_emb/weight emb/weight token_embedding/embedding tok_embeddings/weight pos_emb
pos_embedding pos position_embeddings/embedding positional_encoding wte/embedding wpe/embedding unembed/kernel
embedder/input_embedding relative_attention_bias cls_token mask_token lm_head/kernel head/kernel head_0/kernel
heads/0/kernel mlp_head/Dense_0/kernel classifier/kernel value_head/kernel policy_head/w logits/kernel
logits_dense/kernel to_logits/kernel router/kernel moe_router/kernel LayerNorm_0/scale layer_norm/scale rms_norm/scale
norm/weight norm1/weight layers/norm/weight attention_norm/weight ln_1/weight ln_f/weight ln/bias Dense_0/bias
query/bias linear/b bias_ih_l0
"""


def test_hidden_matrices_are_told_by_names_in_use():
    leaf = shape_of(np.zeros((8, 8)))
    assert [name for name in HIDDEN.split() if not matrices.is_hidden_matrix(name, leaf)] == []
    assert [name for name in OTHERS.split() if matrices.is_hidden_matrix(name, leaf)] == []
    assert not matrices.is_hidden_matrix("mlp/kernel", shape_of(np.zeros(8)))
