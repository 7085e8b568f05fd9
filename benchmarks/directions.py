"""What rounding leaves of the singular directions of momentum, after a training by Muon in float32."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ewa_optax
from benchmarks import gpt
from ewa_optax import matrices, storage

DECAY, RATE = 0.95, 2e-3
KEPT = {
    "float32": ewa_optax.scale_by_ewa(DECAY),
    "8 bits": ewa_optax.scale_by_ewa(DECAY, storage.for_gradients("8bit")),
    "bfloat16": ewa_optax.scale_by_ewa(DECAY, storage.for_gradients("bfloat16")),
}


def table(model: gpt.Sizes, batch: int, steps: int) -> dict:
    """Medians over the matrices of hidden layers, and the worst of them, beside float32's momentum of that step."""
    *before, last = momenta(model, batch, steps)
    true = last["float32"]
    rows = [{"name": f"momentum in {name}"} | apart(true, last[name]) for name in KEPT if name != "float32"]
    rows.append(
        {"name": "iteration in bfloat16"} | cosines("five steps", five_steps(true), five_steps(true, "bfloat16"))
    )
    rows.append({"name": "momentum of the step before"} | apart(true, before[-1]["float32"]))
    rows.append({"name": "five steps beside the exact"} | cosines("five steps", five_steps(true), map(exact, true)))
    size = f"width {model.width}, {model.layers} layers"
    return {"title": f"directions of momentum after {steps} steps: {size}", "rows": rows}


def momenta(model: gpt.Sizes, batch: int, steps: int) -> list[dict[str, list[np.ndarray]]]:
    """Averages of the same gradients in every storage, of each matrix: before the last step, and after it."""
    key, text = jax.random.key(0), gpt.text()[0]
    optimizer = ewa_optax.muon_with_adamw(RATE, decay=DECAY)

    @jax.jit
    def start():
        params = gpt.init(model, key)
        found = hidden(params)
        return params, optimizer.init(params), {name: kept.init(found) for name, kept in KEPT.items()}

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(carry, first, end, text):
        def step(t, carry):
            (params, state, states), _ = carry
            gradients = jax.grad(gpt.loss)(params, gpt.batch(text, batch, model.context, jax.random.fold_in(key, t)))
            made = {name: kept.update(hidden(gradients), states[name]) for name, kept in KEPT.items()}
            updates, state = optimizer.update(gradients, state, params)
            averages, states = ({name: both[i] for name, both in made.items()} for i in (0, 1))
            return (optax.apply_updates(params, updates), state, states), averages

        return jax.lax.fori_loop(first, end, step, carry)

    carry = start()
    found = jax.tree.map(jnp.zeros_like, {name: hidden(carry[0]) for name in KEPT})
    averages = []
    carry = carry, found
    for first, end in ((0, steps - 1), (steps - 1, steps)):
        carry = advance(carry, first, end, text)
        averages.append(jax.tree.map(np.asarray, carry[1]))
    return averages


def hidden(tree: Any) -> list[jax.Array]:
    """The matrices of hidden layers."""
    return [x for x in jax.tree.leaves(tree["layers"]) if x.ndim == 2]


def apart(true: Sequence[np.ndarray], rounded: Sequence[np.ndarray]) -> dict:
    """How far: norms, updates, and the spaces of the eighth of largest and of smallest singular values."""
    errors = [np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in zip(true, rounded, strict=True)]
    both = [(spaces(x), spaces(y)) for x, y in zip(true, rounded, strict=True)]
    return (
        {"relative error": float(np.median(errors))}
        | cosines("exact", map(exact, true), map(exact, rounded))
        | cosines("five steps", five_steps(true), five_steps(rounded))
        | {
            f"{which} directions": [float(f([overlap(x[i], y[i]) for x, y in both])) for f in (np.median, np.min)]
            for i, which in enumerate(("largest", "smallest"))
        }
    )


def cosines(what: str, first: Any, second: Any) -> dict:
    """Between updates: the median, and the worst."""
    found = [np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(first, second, strict=True)]
    return {f"cosine, {what}": [float(np.median(found)), float(np.min(found))]}


def exact(x: np.ndarray) -> np.ndarray:
    """The orthogonal factor, by singular values."""
    u, _, vt = np.linalg.svd(np.asarray(x, float), full_matrices=False)
    return u @ vt


def five_steps(momentum: Sequence[np.ndarray], dtype: Any = None) -> list[np.ndarray]:
    """The same by the iteration of Muon."""
    found = jax.jit(lambda x: matrices.orthogonalize(dtype=dtype, axes=(0, 1)).update(x, optax.EmptyState())[0])(
        momentum
    )
    return [np.asarray(x, float) for x in found]


def spaces(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors, an eighth of them at each end."""
    u = np.linalg.svd(np.asarray(x, float), full_matrices=False)[0]
    eighth = max(1, u.shape[1] // 8)
    return u[:, :eighth], u[:, -eighth:]


def overlap(x: np.ndarray, y: np.ndarray) -> float:
    """How much of one space is in the other: from 0, at right angles, to 1, the same; an eighth by chance."""
    return float(np.sum((x.T @ y) ** 2) / x.shape[1])
