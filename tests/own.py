"""Optimizers as a user would write them: with public names only, in at most twelve lines each."""

import jax.numpy as jnp

from ewa_optax import pieces
from ewa_optax.pieces import Decay, Epsilon, Finite, Rate, WeightDecay, checked
from ewa_optax.storage import MomentStorages, StorageLike, first_moment, for_gradients, second_moment


def clipped(x, limit):
    return x * jnp.minimum(1, limit / jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny)).astype(x.dtype)


@checked
def adopt(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.9999, eps: Epsilon = 1e-6, *, storage: MomentStorages = None
):
    """Taniguchi et al., 2024."""
    _, newest = pieces.shares(b2)

    def divided_by_past(v, g, step):
        square = (jnp.abs(g) ** 2).astype(g.dtype)
        out = clipped(g / jnp.maximum(jnp.sqrt(v.real), eps).astype(g.dtype), (step - 1).astype(float) ** 0.25)
        return jnp.where(step == 1, square, v + newest * (square - v)), jnp.where(step == 1, jnp.zeros_like(out), out)

    n = pieces.recursion(divided_by_past, second_moment(storage))
    m = pieces.scale_by_ewa(b1, first_moment(storage))
    return pieces.optimizer(n, m, pieces.scale_by_learning_rate(learning_rate))


@checked
def cautious_adamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, weight_decay: WeightDecay = 1e-4, *,
    storage: MomentStorages = None,
):  # fmt: skip
    """Liang et al., 2024."""
    m = pieces.scale_by_corrected_ewa(b1, first_moment(storage))
    v = pieces.scale_by_corrected_ewa(b2, second_moment(storage))

    def agreeing(g, u):
        mask = ((u * jnp.conj(g)).real > 0).astype(u.dtype)
        return u * mask / jnp.maximum(mask.real.mean(), 1e-3).astype(u.dtype)

    step = pieces.beside(pieces.scale_by_rms(v, eps, numerator=m)), pieces.elementwise(agreeing)
    decay = pieces.add_decayed_weights(weight_decay)
    return pieces.optimizer(*step, decay, pieces.scale_by_learning_rate(learning_rate))


@checked
def adam_of_rows(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Epsilon = 1e-8, *, storage: MomentStorages = None
):
    """Adam with one second moment a row."""
    m = pieces.scale_by_corrected_ewa(b1, first_moment(storage))
    v = pieces.of_rows(pieces.scale_by_corrected_ewa(b2, second_moment(storage)))
    return pieces.optimizer(pieces.scale_by_rms(v, eps, numerator=m), pieces.scale_by_learning_rate(learning_rate))


@checked
def grokfast(
    learning_rate: Rate, decay: Decay = 0.98, weight: Finite = 2.0, b1: Decay = 0.9, b2: Decay = 0.999,
    eps: Epsilon = 1e-8, *, storage: MomentStorages = None,
):  # fmt: skip
    """Lee et al., 2024: Adam of gradients whose slow part is amplified."""
    slow = pieces.scale_by_ewa(decay, first_moment(storage, which=1))
    m = pieces.scale_by_corrected_ewa(b1, first_moment(storage))
    v = pieces.scale_by_corrected_ewa(b2, second_moment(storage))
    adam = pieces.scale_by_rms(v, eps, numerator=m), pieces.scale_by_learning_rate(learning_rate)
    guard = pieces.saturate(power=2, terms=1 + weight)
    return pieces.optimizer(pieces.beside(slow), pieces.combine(1, weight), *adam, guard=guard)


@checked
def momentum_of_clipped(learning_rate: Rate, decay: Decay = 0.9, *, storage: StorageLike = None):
    """Momentum of gradients clipped at a limit that grows with the step."""
    clip = pieces.elementwise_by_step(lambda g, step: clipped(g, step.astype(float) ** 0.25))
    average = pieces.scale_by_ewa(decay, for_gradients(storage))
    return pieces.optimizer(clip, average, pieces.scale_by_learning_rate(learning_rate), guard=pieces.saturate())
