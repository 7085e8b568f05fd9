"""Real trainings end where those with float32 averages end; with rounding to nearest, they do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax
from benchmarks import tasks
from ewa_optax import storage
from ewa_optax.storage._argument import NAMED

# How far the mean of the final losses may be from float32's, relatively, and less than the seeds differ.
WITHIN = {"24bit": 0.005, "bfloat16": 0.02, "float16": 0.02, "8bit": 0.05, "factored": 0.05}

TASKS = ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("regression", "digits"))]


def adamw(kept):
    return lambda rate: ewa_optax.adamw(rate, storage=kept)


def every_leaf(name, **options):
    if name == "factored":
        return None, storage.Factored(min_size=0)
    return dataclasses.replace(NAMED[name], min_size=0, **options)


def small():
    """The regression, by a network of one layer less, for fewer steps, of batches that are quickly taken."""
    task, model = tasks.regression(), tasks.MLP((64, 1))

    def loss(params, data):
        return jnp.mean((model.apply(params, data[0]) - data[1]) ** 2)

    def batch(key, data):
        start = jnp.asarray(jax.random.key_data(key)[-1] % (1024 - 64 + 1), jnp.int32)
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, 64), data)

    return task._replace(
        name="small",
        init=lambda key: model.init(key, task.data[0]),
        batch=batch,
        loss=loss,
        final_loss=loss,
        steps=5000,
    )


def task_of(name):
    return small() if name == "small" else getattr(tasks, name)()


@functools.cache
def final_losses(task, kept):
    return tasks.train(task_of(task), adamw(kept))


def off(losses, reference):
    return abs(losses.mean() / reference.mean() - 1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "name", ["8bit", *(pytest.param(name, marks=pytest.mark.slow) for name in WITHIN if name != "8bit")]
)
def test_losses_are_those_of_float32(task, name):
    reference, losses = final_losses(task, None), final_losses(task, every_leaf(name))
    assert off(losses, reference) <= WITHIN[name]
    assert name in ("8bit", "factored") or abs(losses.mean() - reference.mean()) < np.ptp(reference)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "name", ["8bit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bfloat16", "float16"))]
)
def test_rounded_to_nearest_they_are_not(task, name):
    reference, losses = final_losses(task, None), final_losses(task, every_leaf(name, rounding="nearest"))
    assert off(losses, reference) > WITHIN[name]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_parameters_of_16_bits_train_too(task):
    """Parameters and both moments in bfloat16, 6 bytes a parameter in all: within a factor of 2 of float32."""

    def rounded(rate):
        averages = ewa_optax.adamw(rate, storage=every_leaf("bfloat16"))
        return optax.chain(averages, ewa_optax.round_stochastically())

    task = task_of(task)
    reference = final_losses(task.name, None).mean()
    assert tasks.train(task, rounded, dtype=jnp.bfloat16).mean() < 2 * reference
    assert tasks.train(task, optax.adamw, dtype=jnp.bfloat16).mean() > 5 * reference


# A transformer's loss has a floor, the entropy of its text: hence closer bounds.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "8bit"])
def test_a_transformer_trains_as_in_float32(name):
    task = tasks.source_code(steps=1500)
    reference = tasks.train(task, adamw(None))
    assert off(tasks.train(task, adamw(name)), reference) < 0.003
    assert off(tasks.train(task, adamw(every_leaf(name, rounding="nearest"))), reference) > 0.005


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "8bit"])
def test_a_transformer_starts_as_in_float32(name):
    task = tasks.source_code(context=32, width=32, layers=1, steps=100)
    losses, reference = (tasks.train(task, adamw(kept), seeds=1) for kept in (name, None))
    assert losses.mean() < 4.0
    assert off(losses, reference) < 0.003
